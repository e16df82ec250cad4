## tests of server
