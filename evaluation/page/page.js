"use strict";
for (const slider of document.querySelectorAll(".comparison input")) {
  const show = () => slider.parentElement.style.setProperty("--at", `${slider.value}%`);
  slider.addEventListener("input", show);
  show();
}
