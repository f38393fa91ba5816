"""Apps to copy from. No part of the package; `docs/build-an-app.md` walks to the first of them."""
