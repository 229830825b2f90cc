"""`python -m langchain_vluna` is the command line."""

from __future__ import annotations

from langchain_vluna.cli import main

if __name__ == "__main__":
    main()
