"""`minigpt tokenize`: a text as tokens and ids, in colour on a terminal; or how many a file has."""

import argparse
import json
import sys

from minigpt.bpe import replace_surrogates
from minigpt.char_tokenizer import CharTokenizer
from minigpt.data import load_text
from minigpt.presets import PRESETS
from minigpt.run_setup import make_tokenizer
from minigpt.token_display import escape_bytes, row, wants_colour
from minigpt.tokenizer import GPT2Tokenizer


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=tokenize)
    parser.description = (
        "Show the tokens of a text and their ids, in colour on a terminal (unless NO_COLOR is "
        "set), with bars between the tokens elsewhere."
    )
    parser.add_argument("text", nargs="?", help="the text")
    parser.add_argument(
        "--file", metavar="PATH",
        help="count the tokens of a UTF-8 text file, or of a folder of them, as training reads it",
    )
    parser.add_argument(
        "--tokenizer", metavar="KIND",
        help="a folder with one; byte; char, the characters of the text itself; or bpe:SIZE, "
        "trained on the English prose that Python carries "
        f"({PRESETS['tiny'].tokenizer}, as `minigpt train` makes it by default)",
    )
    parser.add_argument("--explain", action="store_true", help="show every merge, step by step")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="print the tokens and ids only")


def tokenize(arguments: argparse.Namespace) -> int:
    """`minigpt tokenize`."""
    if (arguments.text is None) == (arguments.file is None):
        raise ValueError("tokenize takes either a text or --file PATH")
    if arguments.explain and (arguments.json or arguments.file is not None):
        raise ValueError("--explain takes a text, and neither --file nor --json")
    text = arguments.text if arguments.file is None else load_text(arguments.file)
    tokenizer = _tokenizer(arguments.tokenizer, text, arguments.quiet)
    if arguments.explain:
        if isinstance(tokenizer, CharTokenizer):
            raise ValueError("--explain shows the merges of byte pair encoding: char has none")
        print(tokenizer.explain(text))
        return 0
    ids = tokenizer.encode(text)
    counts = {
        "tokens": len(ids), "distinct_tokens": len(set(ids)), "vocabulary": len(tokenizer),
        "characters": len(text), "bytes": len(replace_surrogates(text).encode()),
    }
    if arguments.file is not None:
        print(json.dumps(counts) if arguments.json else _report(counts))
    elif arguments.json:
        print(json.dumps({"ids": ids, "tokens": _tokens(tokenizer, ids), "counts": counts}))
    else:
        _show(tokenizer, ids)
        if not arguments.quiet:
            print(_report(counts))
    return 0


def _tokenizer(name: str | None, text: str, quiet: bool) -> GPT2Tokenizer | CharTokenizer:
    if name is None:
        name = PRESETS["tiny"].tokenizer
        if not quiet:
            print(
                f"tokenizer: {name}, trained on the prose that Python carries; --tokenizer FOLDER "
                "uses another",
                file=sys.stderr,
            )
    return make_tokenizer(name, load_text() if name.startswith("bpe:") else text)


def _tokens(tokenizer: GPT2Tokenizer | CharTokenizer, ids: list[int]) -> list[str]:
    """The tokens as the vocabulary has them."""
    if isinstance(tokenizer, CharTokenizer):
        return list(tokenizer.decode(ids))
    return tokenizer.convert_ids_to_tokens(ids)


def _show(tokenizer: GPT2Tokenizer | CharTokenizer, ids: list[int]) -> None:
    colour = wants_colour(sys.stdout)
    tokens = [tokenizer.decode_bytes([token_id]) for token_id in ids]
    breaks = {i for i, token in enumerate(tokens) if token.endswith(b"\n")}
    print(row(list(map(escape_bytes, tokens)), colour, breaks=breaks))
    print(row([str(token_id) for token_id in ids], colour, between=" "))


def _report(counts: dict[str, int]) -> str:
    line = (
        f"{counts['tokens']:,} tokens ({counts['distinct_tokens']:,} of a vocabulary of "
        f"{counts['vocabulary']:,}), {counts['characters']:,} characters, {counts['bytes']:,} bytes"
    )
    if counts["tokens"]:
        line += f": {counts['bytes'] / counts['tokens']:.2f} bytes per token"
    return line
