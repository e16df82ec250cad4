## tests of integration
