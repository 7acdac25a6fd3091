"""Turns Vega-Lite into SVG, one JSON document per line: a program of its own, because the library can abort it.

vl-convert draws inside one wheel, with its own fonts, no browser and no network. Where it cannot reserve enough
addresses (`ulimit -v`, small containers) it ends its process with a signal, which nothing in that process can catch.
"""

import json
import sys
from contextlib import suppress

import vl_convert

if __name__ == "__main__":
    with suppress(BaseException):  # a first drawing makes it ready; if it fails, the next says why
        vl_convert.vegalite_to_svg({"mark": "point"}, allowed_base_urls=[])
    for line in sys.stdin:
        try:
            reply = {"svg": vl_convert.vegalite_to_svg(line, allowed_base_urls=[])}
        except BaseException as error:  # a panic of Rust is no Exception
            said = " ".join(str(error).split("Stack backtrace")[0].split())
            reply = {"error": said or type(error).__name__}
        print(json.dumps(reply), flush=True)
