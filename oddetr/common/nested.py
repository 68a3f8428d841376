"""Convert between nested dicts and flat ones with dotted names, in which configurations are written."""

from typing import Any


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Turn dotted names into dicts: {"loss.classification": v} -> {"loss": {"classification": v}}."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        first, dot, rest = name.partition(".")
        plain = nested(value) if isinstance(value, dict) else value
        result = merged(result, {first: nested({rest: plain}) if dot else plain})
    return result


def flat(values: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested dicts into dotted names. (Some keys in transformers' configurations are numbers.)"""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return result


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Update `base` with `changes`, recursively where both hold a dict; returns a new dict."""
    return base | {
        name: merged(base[name], value) if isinstance(value, dict) and isinstance(base.get(name), dict) else value
        for name, value in changes.items()
    }


def without_key(values: dict[Any, Any], key: str) -> dict[Any, Any]:
    """The same without `key`, at any depth."""
    return {
        name: without_key(value, key) if isinstance(value, dict) else value
        for name, value in values.items()
        if name != key
    }
