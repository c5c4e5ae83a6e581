"""Print the JSON schema of an experiment's YAML file, for editors; with --page every setting.

    python jobs/schema.py > experiment.schema.json
    python jobs/schema.py --page

Reads no experiment and starts nothing.
"""

import argparse

from pipeline.config.reference import json_schema, settings_page

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="docs/settings.md instead")
    print(settings_page() if parser.parse_args().page else json_schema(), end="")
