## tests of engine
