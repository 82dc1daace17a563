.PHONY: check format lint types tests

check:
	ruff format --check .
	$(MAKE) lint types tests

format:
	ruff format .

lint:
	ruff check .

types:
	mypy

tests:
	pytest
