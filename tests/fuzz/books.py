"""What must be true of a ledger whatever was asked of it, read from its tables."""

from __future__ import annotations

import sqlite3

RULES = {
    "a number is no whole number, or below 0": """
        SELECT 'account ' || id FROM accounts
            WHERE typeof(granted) <> 'integer' OR typeof(consumed) <> 'integer' OR typeof(cash) <> 'integer'
            OR granted < 0 OR consumed < 0 OR cash < 0
        UNION ALL SELECT 'window ' || policy FROM windows WHERE typeof(used) <> 'integer' OR used < 0
        UNION ALL SELECT 'budget ' || id FROM budgets WHERE typeof(consumed) <> 'integer' OR consumed < 0
        UNION ALL SELECT 'remainder ' || meter FROM remainders WHERE typeof(waiting) <> 'integer' OR waiting < 0
        UNION ALL SELECT 'rating ' || id FROM ratings
            WHERE typeof(amount) <> 'integer' OR amount < 0 OR quantity < 0 OR cost < 0""",
    "more was consumed than granted": "SELECT principal || '/' || user FROM accounts WHERE consumed > granted",
    "what was charged is not what was rated": """
        SELECT a.principal || ': ' || sum(a.consumed + a.cash) || ' is not ' || coalesce(r.amount, 0)
        FROM accounts a LEFT JOIN (
            SELECT b.principal, sum(amount) AS amount FROM ratings JOIN accounts b ON b.id = account
            WHERE applied GROUP BY b.principal
        ) r ON r.principal = a.principal
        GROUP BY a.principal HAVING sum(a.consumed + a.cash) <> coalesce(r.amount, 0)""",
    "a lease counts other commits than it has": """
        SELECT l.id FROM leases l
        LEFT JOIN (SELECT scope, count(*) AS n FROM ratings WHERE scope <> '' GROUP BY scope) r ON r.scope = l.id
        WHERE l.commits <> coalesce(r.n, 0)""",
    "a lease was charged twice by single commits": """
        SELECT scope FROM ratings WHERE scope <> '' AND body IS NOT NULL AND applied
        GROUP BY scope HAVING count(*) > 1""",
    "a closed lease has no commit": "SELECT id FROM leases WHERE state = 'closed' AND commits = 0",
    "a charge has no account": "SELECT id FROM ratings WHERE account NOT IN (SELECT id FROM accounts)",
    "a journal entry tells of a rating that is not there": """
        SELECT seq FROM journal WHERE rating IS NOT NULL AND rating NOT IN (SELECT seq FROM ratings)""",
}


def broken_rules(path: str) -> list[str]:
    """Return the rules that do not hold, each with its first offenders."""
    connection = sqlite3.connect(path)
    try:
        found = {rule: [row[0] for row in connection.execute(query).fetchmany(3)] for rule, query in RULES.items()}
    finally:
        connection.close()
    return [f"{rule}: {', '.join(map(str, offenders))}" for rule, offenders in found.items() if offenders]


def totals(path: str) -> dict[str, int]:
    connection = sqlite3.connect(path)
    try:
        granted, left = connection.execute("SELECT sum(granted), sum(granted - consumed) FROM accounts").fetchone()
        (ratings,) = connection.execute("SELECT count(DISTINCT id) FROM ratings").fetchone()
    finally:
        connection.close()
    return {"granted": granted or 0, "left": left or 0, "ratings": ratings}
