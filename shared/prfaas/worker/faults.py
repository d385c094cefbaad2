"""What a client and a log are told of an error that ends one request."""

MAX_CHARS = 500


def fault_text(error: BaseException) -> str:
    """Returns one line of at most `MAX_CHARS` characters; the class is named where it is one of Python's or a library's."""
    text = " ".join(str(error).split())
    own = type(error).__module__.startswith("prfaas")
    named = text if own and text else f"{type(error).__name__}: {text}".removesuffix(": ")
    return named if len(named) <= MAX_CHARS else named[: MAX_CHARS - 3] + "..."
