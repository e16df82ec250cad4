## tests of kvcache
