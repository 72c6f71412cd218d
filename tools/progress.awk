# Shows how far a `go build -v` is: one line that is rewritten on a terminal, a
# line every hundred packages elsewhere. Whatever is not progress (an error of
# the compiler) is printed as it is. Use: go build -v ... 2>&1 | awk -v tty=1 -f progress.awk
function now(   t) { "date +%s" | getline t; close("date +%s"); return t }
function show(text) {
  if (tty) { printf "\r\033[K  %3d s  %s", now() - start, text; fflush() }
  else if (n % 100 == 0) { printf "  %3d s  %s\n", now() - start, text; fflush() }
}
BEGIN { start = now(); if (tty) { printf "  building bin/waymark"; fflush() } }
/^go: downloading / { n++; if (n == 1) print (tty ? "\r\033[K" : "") "  first time: downloading modules, then compiling about 900 packages: 1 to 5 minutes"; show("downloading " $3); next }
/^[A-Za-z0-9._~\/-]+$/ {
  if (!compiled++) { if (n > 0 && tty) printf "\r\033[K"; n = 0 }
  n++
  if (compiled == 30) { if (tty) printf "\r\033[K"; print "  compiling about 900 packages, the first time only; after an edit it takes seconds" }
  show(compiled " compiled, now " $0)
  next
}
{ if (tty) printf "\r\033[K"; print }
END { if (tty) printf "\r\033[K" }
