## tests of base
