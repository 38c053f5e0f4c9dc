"""Landed: transactional notifications that are proven to land, on nothing but Postgres."""
