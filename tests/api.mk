## tests of api
