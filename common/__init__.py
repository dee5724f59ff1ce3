"""What every package may use: files, a user's errors, the machine. It imports none of them."""
