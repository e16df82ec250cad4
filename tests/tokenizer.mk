## tests of tokenizer
