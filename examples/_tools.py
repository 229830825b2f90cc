"""Three small tools that the examples' agents may call, and a script for a model that calls them sensibly."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

_OPERATIONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
}

_SUM = re.compile(r"\(?-?\d[\d.\s()+*/%-]*[+*/%-][\d.\s()+*/%-]*\d\)?")
_QUOTED = re.compile(r"[\"“]([^\"”]+)[\"”]")


def _value(node: ast.AST) -> float:
    match node:
        case ast.Expression(body=body):
            return _value(body)
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            result: float = _OPERATIONS[type(op)](_value(left), _value(right))
            return result
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
    msg = "only numbers and + - * / % ( ) are understood"
    raise ValueError(msg)


@tool
def calculate(expression: str) -> str:
    """Work out an arithmetic expression such as `17 * (23 + 4)`."""
    try:
        return f"{_value(ast.parse(expression.strip(), mode='eval')):,.12g}"
    except (ValueError, SyntaxError, ZeroDivisionError) as error:
        return f"cannot calculate {expression!r}: {error}"


@tool
def count_words(text: str) -> str:
    """Count the words of a text."""
    return str(len(re.findall(r"\w+(?:['’]\w+)*", text)))


@tool
def reverse(text: str) -> str:
    """Write a text backwards."""
    return text[::-1]


TOOLS = [calculate, count_words, reverse]

_WORDING = {
    "calculate": "{expression} = {answer}",
    "count_words": "“{text}” has {answer} words",
    "reverse": "“{text}” backwards is “{answer}”",
}


def answer(messages: Sequence[BaseMessage]) -> AIMessage:
    """Do what a model would: ask for tools first, then put their answers into words."""
    last = max(index for index, message in enumerate(messages) if isinstance(message, HumanMessage))
    asked, since = messages[last].text, messages[last + 1 :]
    results = {message.tool_call_id: message.text for message in since if isinstance(message, ToolMessage)}
    if not results:
        return AIMessage(content="Let me see.", tool_calls=_wanted(asked))
    calls = [call for message in since if isinstance(message, AIMessage) for call in message.tool_calls]
    found = [_WORDING[call["name"]].format(**call["args"], answer=results[str(call["id"])]) for call in calls]
    return AIMessage(content="; ".join(found) + ".")


def _wanted(text: str) -> list[Any]:
    wanted: list[tuple[str, dict[str, str]]] = []
    quoted = _QUOTED.search(text)
    subject = quoted[1] if quoted else text.strip()
    if found := _SUM.search(text):
        wanted.append(("calculate", {"expression": found[0].strip()}))
    if re.search(r"\b(reverse|backwards?)\b", text, re.IGNORECASE):
        wanted.append(("reverse", {"text": subject}))
    if not wanted or re.search(r"\bwords?\b", text, re.IGNORECASE):
        wanted.append(("count_words", {"text": subject}))
    return [{"name": name, "args": args, "id": f"call_{index}"} for index, (name, args) in enumerate(wanted, start=1)]
