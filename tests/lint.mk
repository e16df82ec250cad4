## tests of lint
