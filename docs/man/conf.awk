# etc/latentd.conf, which is what `latentd --print-default-config` prints, as the page latentd.conf(5).
function roff(s) {
    gsub(/\\/, "\\e", s)
    gsub(/-/, "\\-", s)
    return s ~ /^[.']/ ? "\\&" s : s
}
BEGIN {
    print ".TH LATENTD.CONF 5 \"\" latentd \"File formats\""
    print ".SH NAME\nlatentd.conf \\- configuration of latentd"
    print ".SH DESCRIPTION"
    print "Lines of\n.IR key \" = \" value .\nEmpty lines and what follows a # are passed over; a value with one of #, \" or \\e in it"
    print "is quoted, and a \\e stands before each \" and \\e in it. Sizes are bytes, or have one of K, M, G and T (powers of 1024)"
    print "behind them; times are seconds, or have ms, s, m or h behind them. A key that is not known, or a value out of its"
    print "range, is an error that names the line."
    print ".PP\nEvery key also works as\n.BI \\-\\-set \" key\" = value\non the command line, and in capitals behind LATENTD_ in the"
    print "environment; the command line wins over the environment, and that over the file.\n.B latentd \\-\\-check\\-config"
    print "tells what is in force."
    print ".PP\nSIGHUP reads the file again. What cannot change without a restart is named in the log.\n.SH KEYS"
}
/^# --- .* ---$/ {
    sub(/^# --- /, "")
    sub(/ ---$/, "")
    print ".SS " roff($0)
    next
}
/^# / {
    help = toupper(substr($0, 3, 1)) substr($0, 4)
    next
}
/^#[a-z]/ {
    at = index($0, " = ")
    key = substr($0, 2, at - 2)
    value = substr($0, at + 3)
    print ".TP\n.B " roff(key) "\n" roff(help) " Default: " (value == "\"\"" ? "empty" : roff(value)) "."
}
END {
    print ".SH FILES\n.I /etc/latentd.conf\n.br\n.I /etc/latentd/NAME.conf"
    print ".SH SEE ALSO\n.BR latentd (8)\n.PP\n.I access.md\nand\n.I cache.md\nin the folder of the documentation."
}
