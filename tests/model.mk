## tests of model
