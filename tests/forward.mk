## tests of forward
