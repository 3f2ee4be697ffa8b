"""Version 3 of the ledger's tables in PostgreSQL: the pattern /v1/images/* also covers /v1/images itself.

Sums are stored by model and path and matched when they are read, so they need not be recomputed.
"""

from __future__ import annotations

SQL = r"""
CREATE OR REPLACE FUNCTION x402_covers(model_pattern text, path_pattern text, its_model text, its_path text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (model_pattern = '' OR coalesce(its_model = chr(1) OR lower(its_model) LIKE model_pattern, false))
        AND (path_pattern = '' OR its_path = chr(1)
            OR lower(its_path) LIKE path_pattern OR lower(its_path) LIKE '{ALIAS}' || path_pattern
            OR lower(its_path) || '/' LIKE path_pattern OR lower(its_path) || '/' LIKE '{ALIAS}' || path_pattern)
$$;
"""
