"""The command line of Frostline: `python cli.py COMMAND`; see README.md."""

from frostline.cli.main import main

if __name__ == "__main__":
    main()
