"""The ledger's tables, as a list of migrations: append, never edit."""

from __future__ import annotations

from typing import Final

__all__ = ["MIGRATIONS"]

_FIRST: Final = (
    "CREATE TABLE revision (value INTEGER NOT NULL)",
    "INSERT INTO revision VALUES (0)",
    "CREATE TABLE families (code TEXT PRIMARY KEY, entitlement_required INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE features (
        code TEXT PRIMARY KEY, family TEXT NOT NULL, active INTEGER NOT NULL, entitlement_required INTEGER
    ) WITHOUT ROWID""",
    # `xusd` NULL is a meter without a price, `version` 0 one that never had any.
    """CREATE TABLE meters (
        code TEXT PRIMARY KEY, unit TEXT NOT NULL, xusd INTEGER, per INTEGER NOT NULL, rounding TEXT NOT NULL,
        prepaid INTEGER NOT NULL, cost_xusd INTEGER NOT NULL, version INTEGER NOT NULL, since_ms INTEGER NOT NULL,
        fingerprint TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE feature_meters (
        feature TEXT NOT NULL, meter TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (feature, meter)
    ) WITHOUT ROWID""",
    # `user` '' is the principal itself. Money that no grant covers is `cash`: a later grant does not pay it back.
    """CREATE TABLE accounts (
        id INTEGER PRIMARY KEY, principal TEXT NOT NULL, user TEXT NOT NULL,
        granted INTEGER NOT NULL DEFAULT 0, consumed INTEGER NOT NULL DEFAULT 0, cash INTEGER NOT NULL DEFAULT 0,
        UNIQUE (principal, user)
    )""",
    """CREATE TABLE entitlements (
        feature TEXT NOT NULL, account INTEGER NOT NULL, PRIMARY KEY (feature, account)
    ) WITHOUT ROWID""",
    """CREATE TABLE policies (
        id INTEGER PRIMARY KEY, feature TEXT NOT NULL, kind TEXT NOT NULL, allowed INTEGER NOT NULL,
        window_sec INTEGER NOT NULL, UNIQUE (feature, kind, window_sec)
    )""",
    """CREATE TABLE windows (
        policy INTEGER NOT NULL, account INTEGER NOT NULL, start_ms INTEGER NOT NULL, used INTEGER NOT NULL,
        PRIMARY KEY (policy, account, start_ms)
    ) WITHOUT ROWID""",
    """CREATE TABLE budgets (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, account INTEGER NOT NULL, name TEXT,
        allowed INTEGER NOT NULL, consumed INTEGER NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE leases (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tail TEXT NOT NULL, chosen TEXT, account INTEGER NOT NULL,
        feature TEXT NOT NULL, family TEXT NOT NULL, state TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL,
        created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, start_ms INTEGER NOT NULL,
        window_sec INTEGER NOT NULL, budget TEXT, hints TEXT NOT NULL, commits INTEGER NOT NULL DEFAULT 0,
        UNIQUE (key, account)
    )""",
    # In the newest generation a caller may choose the handle itself.
    "CREATE UNIQUE INDEX chosen_handles ON leases (chosen, account) WHERE chosen IS NOT NULL",
    # `scope` is the lease of a commit and '' for ingest; `body` is NULL for an item of a batch.
    """CREATE TABLE ratings (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL, account INTEGER NOT NULL, scope TEXT NOT NULL, key TEXT NOT NULL,
        body TEXT, feature TEXT NOT NULL, quantity INTEGER NOT NULL, amount INTEGER NOT NULL, cost INTEGER NOT NULL,
        applied INTEGER NOT NULL, labels TEXT NOT NULL, lines TEXT NOT NULL, hints TEXT NOT NULL, budget TEXT,
        created_ms INTEGER NOT NULL,
        UNIQUE (key, scope, account)
    )""",
    """CREATE TABLE remainders (
        account INTEGER NOT NULL, meter TEXT NOT NULL, version INTEGER NOT NULL, waiting INTEGER NOT NULL,
        PRIMARY KEY (account, meter, version)
    ) WITHOUT ROWID""",
    # Answers of cancel and batch, which no row of their own can give again.
    """CREATE TABLE answers (
        verb TEXT NOT NULL, key TEXT NOT NULL, account INTEGER NOT NULL, body TEXT NOT NULL, data TEXT NOT NULL,
        created_ms INTEGER NOT NULL, PRIMARY KEY (verb, key, account)
    ) WITHOUT ROWID""",
    "CREATE INDEX old_answers ON answers (created_ms)",
)

_JOURNAL: Final = (
    # `principal` and `user` as text: a refused request leaves no account. `rating` is the row of `ratings` that has
    # what a commit was about, `detail` JSON with what no column has; `run`, `root`, `thread` are labels to search by.
    """CREATE TABLE journal (
        seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, verb TEXT NOT NULL,
        principal TEXT NOT NULL, user TEXT NOT NULL, feature TEXT, lease TEXT, rating INTEGER, status INTEGER NOT NULL,
        code TEXT NOT NULL, message TEXT NOT NULL, key TEXT NOT NULL, run TEXT, root TEXT, thread TEXT,
        detail TEXT NOT NULL
    )""",
    "CREATE INDEX ratings_by_time ON ratings (created_ms)",
    "CREATE INDEX open_leases ON leases (account) WHERE state = 'active' AND commits = 0",
)

MIGRATIONS: Final = (_FIRST, _JOURNAL)
