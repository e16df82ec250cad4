// tests/tokenizer/texts.mjs - seeded lines of text: prose, code, scripts, emoji, any Unicode, special tokens.
const ENGLISH = ('the of and to in a is that for it was on are as with his they at be this from have or by one had not but ' +
    'what all were when we there can an your which their said if do will each about how up out them then she many some so ' +
    'these would other into has more her two like him see time could no make than first been its who now people my made over ' +
    'did down only way find use may water long little very after words called just where most know').split(' ')
const WORDS = {
    code: ['int', 'return', 'for (int i = 0; i < n; i++) {', '}', 'def f(x):', '    ', '\t', '\n', '\n\n', '=>', '!==', '&&', '||',
        '/* no */', '// x', '#include <stdio.h>', 'const std::vector<int> &v', 'a[i] += b->c;', '"%d\\n"', "'\\0'", '0x1F', '1e-9', '...',
        'SELECT * FROM t WHERE id = 10;', '<div class="x">', '</div>', '{"a": [1, 2.5, null]}', 'snake_case', 'camelCase', 'HTTPServer2', '$x', '@app.route("/")'],
    chinese: ['的', '人工智能', '我们', '模型', '注意力', '，', '。', '中国', '２０２６年', '“引号”', '——', '语言', '東京', '！', '……', '《书》', '１２３'],
    japanese: ['これは', 'テスト', 'です。', '日本語', 'ー', 'カタカナ', '、', 'ｶﾀｶﾅ', 'が', 'か\u3099'],
    korean: ['안녕하세요', '한국어', '모델', '은', '는', '\u1112\u1161\u11ab', 'ㅋㅋㅋ'],
    arabic: ['السلام', 'عليكم', 'كِتَابٌ', 'في', '،', '؟', '٢٠٢٦', 'لُغَة', '\u200f', 'ﷺ'],
    hindi: ['नमस्ते', 'भारत', 'हिन्दी', 'में', '।', '२०२६', 'क्षत्रिय', 'फ़', 'ड़', 'ज्ञान'],
    other: ['Привет', 'мир', 'Ελληνικά', 'ſtraße', 'İstanbul', 'naïve', 'café', 'cafe\u0301', 'Å', '\u212b', 'ﬁ', 'ǅ', 'ภาษาไทย', 'עברית', 'Ünïcödé',
        'የኢትዮጵያ', 'ქართული', 'Հայերեն', 'Việt Nam', 'Việt', '½', '①', 'Ⅳ', '²', '€5', '™'],
    emoji: ['😀', '👩‍👩‍👧', '🇩🇪', '👍🏽', '❤️', '🏴‍☠️', '1️⃣', '\u200d', '\ufe0f', '🫠', '🤷‍♀️'],
    space: [' ', '  ', '   ', '\n', '\n\n', '\r\n', '\r', '\t', '\u00a0', '\u3000', '\u2028', '\u0085', '\ufeff', '\u200b', '\u180e', '\u1680', '\v', '\f', ' \n ',
        '        ', '\u001c', '▁', '▁▁'],
    odd: ["don't", "I'LL", "we'Ve", "'S", "'ſ", "'\u212a", "x'd", ' 3.14159', '2026-11-24', '1234567', 'http://a.b/c?d=e&f=%20', 'a.b@c.de', '--', '***', 'Ġ', 'Ċ', '\ufffd',
        '<0x0A>', '<unk>', '</s>', '<s>', 'null\u0001', 'ALLCAPS', 'iPhone', '\u0301', 'a\u0301\u0323', 'q\u0307\u0323', '\u0f71\u0f72', '\u1100\u1161'],
}

/** random: () => [0, 1); specials: texts of added tokens. Returns a function that makes lines. */
export function lines(random, specials) {
    const below = (n) => Math.floor(random() * n)
    const pick = (list) => list[below(list.length)]
    const any = () => { // any code point that is no surrogate; NUL too is nothing that a request has
        const c = 1 + below(below(3) ? 0x2fff : 0x110000 - 0x801)
        return String.fromCodePoint(c < 0xd800 ? c : c + 0x800)
    }
    const english = () => {
        let s = Array.from({ length: 3 + below(20) }, () => pick(ENGLISH)).join(' ')
        if (below(2)) s = s[0].toUpperCase() + s.slice(1)
        return s + pick(['.', '?', ', ', '\n', '', ' (1)', '!!'])
    }
    const kinds = Object.keys(WORDS)
    return () => {
        const sources = Array.from({ length: 1 + below(3) }, () => {
            const k = below(kinds.length + 4)
            return k < kinds.length ? () => pick(WORDS[kinds[k]]) : k === kinds.length ? any : k === kinds.length + 1 ? () => pick(specials) : english
        })
        const joint = pick(['', '', ' ', ' ', '\n'])
        let s = ''
        for (let n = 1 + below(below(10) ? 12 : 80); n > 0; n--) {
            const piece = pick(sources)()
            s += (random() < 0.05 ? piece.repeat(1 + below(9)) : piece) + (random() < 0.9 ? joint : pick(WORDS.space))
        }
        return s
    }
}
