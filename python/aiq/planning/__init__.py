"""The search for a plan: `aiq.planning.search` strings the stages together."""
