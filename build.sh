#!/bin/sh
# The only entry point for people and CI: deps, build, run, test, bench, fuzz, clean.
#   ./build.sh build [release|lean|static|test|asan|clang]…    release is build/sallyport, the others build/NAME/sallyport; lean is
#   without HTTP/2, static without TLS 1.3: it loads nothing of the system's
# To cross-compile: CC=aarch64-linux-gnu-gcc STRIP=aarch64-linux-gnu-strip CFLAGS=-I… LDFLAGS=-L… ./build.sh build
set -eu
cd "$(dirname "$0")"

version=0.1.0
warn="-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -Werror -Wshadow -Wstrict-prototypes -Wvla -Wpointer-arith"
harden="-fPIE -fstack-protector-strong -fstack-clash-protection -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3"
sections="-ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables"
# -O2 where it pays: padding and copies of functions buy nothing that could be measured, and cost 40 KB
small="-O2 -fno-align-functions -fno-align-loops -fno-align-jumps -fno-tree-vectorize -fno-inline-functions
	-fno-tree-ch -fno-tree-pre -fno-caller-saves -freorder-blocks-algorithm=simple -fno-guess-branch-probability"
sanitize="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
link="-pie -Wl,-z,relro,-z,now,-z,noexecstack,--gc-sections,--as-needed"
libs="-l:liblua5.4.a -l:liblua5.4-lpeg.a -l:libbearssl.a -l:liblmdb.a -l:libz.a -l:liblzma.a -l:libnghttp2.a -lm -lpthread"   # libm is a part of glibc

build_packages="gcc libc6-dev liblua5.4-dev lua-lpeg-dev libbearssl-dev liblmdb-dev zlib1g-dev liblzma-dev libnghttp2-dev libssl-dev xz-utils"
fuzz_packages="clang libclang-rt-14-dev"
test_packages="$fuzz_packages publicsuffix lua-check python3 openssl curl wget git procps nginx fcgiwrap npm
	python3-requests python3-urllib3 python3-boto3 python3-websockets awscli restic chromium fish
	kubernetes-client python3-kubernetes python3-socks python3-jsonschema python3-prometheus-client s3cmd skopeo podman docker-registry gdb python3-pip iptables nftables
	nghttp2-client nghttp2-server python3-grpcio python3-h2 golang-go default-jdk-headless gh"
bench_packages="python3 openssl procps nginx haproxy valgrind"

say() { printf '%s\n' "build.sh: $*" >&2; }

# missing PACKAGE…: those not installed. A command that is there already counts: npm may come from elsewhere.
missing() {
	for p; do
		case $p in gcc|clang|git|curl|wget|nginx|npm|haproxy|openssl|valgrind) command -v "$p" >/dev/null && continue ;;
		kubernetes-client) command -v kubectl >/dev/null && continue ;;
		golang-go) command -v go >/dev/null && continue ;;
		default-jdk-headless) command -v javac >/dev/null && continue ;; esac
		# this machine's: beside it there may be another's, to cross-compile
		dpkg-query -W -f '${Status} ${Architecture}\n' "$p" 2>/dev/null | grep -Eq "ok installed ($(dpkg --print-architecture)|all)\$" || printf '%s ' "$p"
	done
}

deps() {
	command -v dpkg-query >/dev/null || { say "not Debian: please see to these yourself: $*"; return; }
	want=$(missing "$@")
	[ -n "$want" ] || return 0
	sudo=
	[ "$(id -u)" = 0 ] || sudo="sudo"
	say "installing from Debian: $want${sudo:+(through sudo)}"
	# shellcheck disable=SC2086  # a list of words
	$sudo apt-get update -qq &&
		$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $want >/dev/null ||
		{ say "they could not be installed; as root: apt-get install --no-install-recommends $want"; exit 1; }
}

# slim FILE: Lua without indentation and comments, every line where it was; long strings are left alone. A comment behind
# code goes where the quotes before it are even: so it is none within a text.
slim() {
	awk '{
		if (!long) { sub(/^[ \t]+/, ""); if (/^--[^[]/ || $0 == "--") $0 = ""
			if (!/\[=*\[/ && match($0, /[ \t]+-- /)) {
				code = substr($0, 1, RSTART - 1)
				if (code !~ /\\/ && gsub(/"/, "&", code) % 2 == 0 && gsub(/\047/, "&", code) % 2 == 0) $0 = code
			}
		}
		rest = $0
		while (1) {
			if (!long) {
				if (!match(rest, /\[=*\[/)) break
				long = substr(rest, RSTART, RLENGTH); gsub(/\[/, "]", long)
				rest = substr(rest, RSTART + RLENGTH)
			}
			if (!(at = index(rest, long))) break
			rest = substr(rest, at + length(long)); long = ""
		}
		print
	}' "$1"
}

# topic FILE: a topic of `sallyport help` as a module that is its text.
topic() { printf 'return [=====[\n'; cat "$1"; printf ']=====]\n'; }

# manual: fails where something that policies get has no entry in their manual: a function in lua/allowed.lua, in the views'
# and handles' tables of proxy.c or of `net`, or a key that the loader knows. An entry is a line "## NAME(…), NAME(…)".
manual() {
	lacks=$(awk '
		function need(name, at) { if (!(name in has)) print at ": " name }
		FILENAME ~ /policy_manual/ {
			if (sub(/^## /, "")) while (match($0, /^[ ,]*[A-Za-z0-9_.:]+/)) {
				name = substr($0, 1, RLENGTH); $0 = substr($0, RLENGTH + 1); gsub(/[ ,]/, "", name); has[name] = 1
				if ($0 ~ /^[ ]*[({\[-]/) break
			}
			next
		}
		FILENAME ~ /allowed/ {
			if (/^local given = \{/) on = 1; else if (/^}/) on = 0
			if (on && match($0, /^  [a-z0-9]+ = "/)) {
				module = $1; sub(/^[^"]*"/, ""); sub(/".*/, "")
				for (n = split($0, word, " "); n > 0; n--) need(module "." word[n], FILENAME)
			}
			next
		}
		FILENAME ~ /oauth/ { if (/^  function net\./) { sub(/^  function /, ""); sub(/\(.*/, ""); need($0, FILENAME) } next }
		FILENAME ~ /policy\.lua/ {
			if (/^M\.key_tables = \{/) { on = 1; next }
			if (on) { if (/^}/) on = 0; while (match($0, /[a-z_]+ = [a-z_]+/)) {
				split(substr($0, RSTART, RLENGTH), word, " = "); of[word[2]] = word[1]; $0 = substr($0, RSTART + RLENGTH) } }
			if (match($0, /^local [a-z_]+_keys = \{/)) { table = $2; sub(/^[^{]*/, "") }
			if (table != "") { line = $0; while (match(line, /[a-z_]+ = "/)) {
				keys[table] = keys[table] " " substr(line, RSTART, RLENGTH - 4); line = substr(line, RSTART + RLENGTH) }
				if (/}/) table = "" }
			next
		}
		/^static const luaL_Reg l_(secret_functions|headers|query|view_methods)\[\]/ { prefix = /l_secret/ ? "secret." : /l_headers/ ? "req.headers:" : /l_query/ ? "req.query:" : "req:" }
		/^} codecs\[\] = / { prefix = "secret." }
		/ l_members\[\] = / { prefix = "req." }
		/^};/ { prefix = "" }
		prefix != "" { line = $0; while (match(line, /\{"[a-z0-9_]+"/)) {
			name = substr(line, RSTART + 2, RLENGTH - 3); line = substr(line, RSTART + RLENGTH); row = line; sub(/\}.*/, "", row)
			if (prefix != "req." || row ~ /OF_(VIEW|BOTH|ALL)/) need(prefix name, FILENAME) } }
		END { for (t in keys) { if (!(t in of)) print "lua/policy.lua: " t " is not in M.key_tables"
			for (n = split(keys[t], word, " "); n > 0; n--) need(of[t] "." word[n], "lua/policy.lua") } }
	' lua/cli/policy_manual.lua lua/allowed.lua lua/oauth.lua lua/policy.lua proxy.c)
	[ -z "$lacks" ] || { say "no entry in lua/cli/policy_manual.lua:"; printf '%s\n' "$lacks" >&2; exit 1; }
}

# pack FILE: that text as build/slim/pack.xz, an LZMA stream: a sixth smaller than gzip's (proxy.c, section embed, reads it). A
# dictionary of 1 MiB is 3 KB more than one of the whole text, and half the memory to unpack it. It takes a second, so it runs
# where the text is new; build/slim/pack.text is the one that is packed.
pack() {
	if cmp -s "$1" build/slim/pack.text && [ -e build/slim/pack.xz ]; then
		rm "$1"
		return
	fi
	rm -f build/slim/pack.text
	xz --format=lzma --lzma1=preset=9e,lc=3,lp=0,pb=0,dict=1MiB -c "$1" >"build/slim/xz.$$"
	mv "build/slim/xz.$$" build/slim/pack.xz
	mv "$1" build/slim/pack.text
}

# What a command needs that is typed often: it stands first in the pack, which is unpacked as far as it is asked for. A file that
# is missing here costs milliseconds, no more.
first="guarded fields cli cli/page cli/report cli/files cli/terminal host cli/machine cli/version changes cli/run cli/control_client cli/control json secret
	cli/jail cli/looks cli/secret_names roots cli/truststore cli/env cli/db env cli/home records cli/tokens store cli/listeners holding cli/status cli/log_files reqlog
	cli/log_record errors cli/log_summary cli/token_state cli/log_place cli/agent cli/shape variables doors cli/credential cli/fields scrub
	oauth cli/presets presets policy_store sandbox policy seal mint preset_table rows stand_in cli/tls cli/sandbox_file
	policies/presets cli/explain cli/decision cli/explain_door cli/guard paths worker pipeline carriers route rules token challenge web/access http
	config identity allowed patterns aws sign keys form body uri dates policy_log policies/match example"

# build/embed.S: every Lua file in the binary, packed, and the table that names them and tells where in the text each lies. One
# pack, smaller than one for each folder by a twentieth. Policies are for people to read and edit, so they go in with comments.
embed() {
	mkdir -p build/slim
	# The topics' names are a module too, and the policies': nothing else in the binary lists its files.
	(cd lua/help && printf 'return {' && printf ' "%s",' *.md && printf ' }\n') | sed 's/\.md"/"/g' >build/slim/topics.lua
	(cd policies && printf 'return {' && printf ' "%s",' *.lua rules/*.lua && printf ' }\n') | sed 's,rules/,,g; s/\.lua"/"/g' >build/slim/policy_names.lua
	# Names under which services' keys are kept: the presets' text is 86 KB, which `run` need not read.
	{
		echo 'return {'
		awk '/^  shapes *=/ { on = 1 }
			match($0, /env *= *\{[^}]*/) { n = split(substr($0, RSTART, RLENGTH), t, "\""); for (i = 2; i <= n; i += 2) print t[i] }
			on { s = $0; while (match(s, /[A-Z][A-Z0-9_]+ = /)) { print substr(s, RSTART, RLENGTH - 3); s = substr(s, RSTART + RLENGTH) } }
			/^  \}/ { on = 0 }' policies/presets.lua | LC_ALL=C sort -u | sed -n 's/^[A-Z0-9_]*$/&=true,/p'
		echo '}'
	} >build/slim/secret_names.lua
	rows=build/embed.rows.$$ text=build/slim/text.$$ i=0 at=0
	: >"$rows"
	: >"$text"
	{
		printf '\t.section .rodata.embed,"a",%%progbits\n\t.globl embed_base\nembed_base:\n'
		# shellcheck disable=SC2086  # a list of words
		for f in $({ printf '%s.lua\n' $first | sed '/^policies/!s,^,lua/,'
				find lua lua/web lua/cli policies policies/rules lua/help -maxdepth 1 -name '*.lua' -o -name '*.md' | LC_ALL=C sort; } |
				awk '!seen[$0]++') build/slim/topics.lua build/slim/policy_names.lua; do
			i=$((i + 1)) from=$at
			case $f in *.md) topic "$f" ;; lua/cli/secret_names.lua) cat build/slim/secret_names.lua ;; lua/*) slim "$f" ;; *) cat "$f" ;; esac >>"$text"
			case $f in *.md) f=${f%.md}.lua ;; build/slim/topics.lua) f=lua/help/topics.lua ;; build/slim/*) f=lua/${f##*/} ;; policies/rules/*) f=policies/${f##*/} ;; esac
			at=$(($(wc -c <"$text")))
			printf 'n%d:\t.asciz "%s"\n' $i "$f"
			printf '\t.long n%d - embed_base, %d, %d\n' $i "$from" $((at - from)) >>"$rows"
		done
		pack "$text"
		printf '\t.globl embed_packed\nembed_packed:\t.4byte %d\n' "$at"
		printf '#ifdef SALLYPORT_STORED\n\t.incbin "build/slim/pack.text"\n#else\n\t.incbin "build/slim/pack.xz"\n#endif\n'
		printf '\t.globl embed_packed_end\nembed_packed_end:\n'
		printf '\t.balign 4\n\t.globl embed_count\nembed_count:\t.long %d\n' $i
		printf '\t.globl embed_files\nembed_files:\n'
		cat "$rows"
		printf '\t.section .note.GNU-stack,"",%%progbits\n'
	} >"build/embed.S.$$"
	rm -f "$rows"
	mv "build/embed.S.$$" build/embed.S
}

stamp() { printf '%s' "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}"; }

# flags: fails where the builder's own flags ask for another kind of program than this becomes, whatever they say.
flags() {
	# shellcheck disable=SC2086  # lists of words
	for f in ${CC:-} ${CFLAGS:-} ${LDFLAGS:-}; do
		case $f in
		-static-lib*) ;;
		-static*|--static|-Wl,*-static*|-Wl,*-Bstatic*|-Wl,-dn|-Wl,-non_shared)
			say "$f cannot be honoured: libc is linked dynamically, since it looks names up and loads OpenSSL by modules of the system; 'build static' makes one without"; exit 1 ;;
		-no-pie|-nopie|-fno-pie|-fno-PIE|-fno-pic|-fno-PIC|-Wl,*-no-pie*|-Wl,*norelro*|-Wl,*,lazy*|-Wl,*,execstack*)
			say "$f cannot be honoured: the program is position-independent, and its tables of addresses cannot be written to"; exit 1 ;;
		-shared|-r|-Wl,-shared|-Wl,-r|-c|-S|-E)
			say "$f cannot be honoured: what is built is a program"; exit 1 ;;
		esac
	done
}

# relr CC: the flag that packs the addresses to relocate, which takes 36 KB less, where linker and libc know it: on amd64 from
# Debian 12 on.
relr() {
	# shellcheck disable=SC2086
	echo 'int main(void) { return 0; }' | $1 -xc - -pie ${LDFLAGS:-} -Wl,-z,pack-relative-relocs,--fatal-warnings -o "build/relr.$$" 2>/dev/null &&
		readelf -V "build/relr.$$" | grep -q GLIBC_ABI_DT_RELR && echo -Wl,-z,pack-relative-relocs
	rm -f "build/relr.$$"
}

# compile CC OUT SOURCE FLAG…: one program from one C file (which is, or includes, proxy.c).
compile() {
	cc=$1 out=$2 src=$3
	shift 3
	mkdir -p "$(dirname "$out")"
	# shellcheck disable=SC2086
	$cc $warn $harden $sections ${LUA_CFLAGS:--I/usr/include/lua5.4} -I. -DVERSION="\"$version\"" \
		-DBUILD_TIME="$(stamp)" "$@" ${CFLAGS:-} -o "$out.$$" "$src" build/embed.S ${LDFLAGS:-} $link $(relr "$cc") $libs
	mv "$out.$$" "$out"
}

# together FILE…: one source of the unit tests or fuzz targets in these files, so that proxy.c is compiled once for all of them.
# The program goes by the name that it is called by.
together() {
	echo '#include <string.h>'
	for f; do
		n=$(basename "$f" .c)
		printf '#define main %s_main\n#define LLVMFuzzerTestOneInput %s_input\n#define LLVMFuzzerInitialize %s_begin\n' "$n" "$n" "$n"
		printf '#include "%s"\n#undef main\n#undef LLVMFuzzerTestOneInput\n#undef LLVMFuzzerInitialize\n' "$f"
		printf '#undef PROXY_C\n#define PROXY_C <stddef.h>\n'      # what it includes stands above
	done
	case $1 in
	tests/unit/*)
		printf 'int\nmain(int argc, char **argv)\n{\n\tconst char *name = strrchr(argv[0], %s) + 1;\n\n\t(void)argc;\n' "'/'"
		for f; do
			n=$(basename "$f" .c) args=
			! grep -q '^main(int' "$f" || args='argc, argv'
			printf '\tif (strcmp(name, "%s") == 0)\n\t\treturn %s_main(%s);\n' "$n" "$n" "$args"
		done
		printf '\treturn 2;\n}\n' ;;
	*)
		printf 'static int (*target)(const uint8_t *, size_t);\n'
		printf 'int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);\nint LLVMFuzzerInitialize(int *argc, char ***argv);\n'
		printf 'int\nLLVMFuzzerTestOneInput(const uint8_t *p, size_t n)\n{\n\treturn target(p, n);\n}\n'
		printf 'int\nLLVMFuzzerInitialize(int *argc, char ***argv)\n{\n\tconst char *name = strrchr(**argv, %s) + 1;\n\n\t(void)argc;\n' "'/'"
		for f; do
			n=$(basename "$f" .c) begin=0
			! grep -q '^LLVMFuzzerInitialize' "$f" || begin="${n}_begin(argc, argv)"
			printf '\tif (strcmp(name, "%s") == 0) {\n\t\ttarget = %s_input;\n\t\treturn %s;\n\t}\n' "$n" "$n" "$begin"
		done
		printf '\tabort();\n}\n' ;;
	esac
}

# request_test makes malloc fail for proxy.c too: it is a program of its own. store_test says how large proxy.c's map is: it stands first.
all_units="tests/unit/store_test.c $(find tests/unit -name '*_test.c' ! -name request_test.c ! -name store_test.c | LC_ALL=C sort)"
all_fuzz=$(find tests/fuzz -name '*.c' | LC_ALL=C sort)

# all KIND CC FLAG…: all of one kind in one binary, build/KIND/all, and a name for each.
all() { # shellcheck disable=SC2086
	kind=$1 cc=$2 files=$all_units
	shift 2
	[ "$kind" = unit ] || files=$all_fuzz
	mkdir -p "build/$kind"
	together $files >"build/$kind/all.c"
	part "$cc" "build/$kind/all" "build/$kind/all.c" "$@" -Wno-shadow
	for f in $files; do ln -sf all "build/$kind/$(basename "$f" .c)"; done
}

# A unit test or fuzz target is a C file that includes proxy.c, and uses a part of it.
part() { say "$3"; compile "$@" -DPROXY_C='"proxy.c"' -DSALLYPORT_UNIT -DSALLYPORT_TEST -Wno-unused-function; }

# shellcheck disable=SC2086
build_one() {
	name=$(basename "$1" .c)
	case $1 in
	release|lean)
		# Tables for unwinding C++ exceptions, which the libraries bring and nobody reads: 70 KB
		echo 'SECTIONS { /DISCARD/ : { *(.eh_frame) } } INSERT AFTER .text;' >build/unwind.ld
		out=build/sallyport lean=
		[ "$1" = release ] || { out=build/lean/sallyport lean=-DSALLYPORT_LEAN; }
		compile "${CC:-gcc}" $out proxy.c $small $lean -Wl,--no-eh-frame-hdr,-T,build/unwind.ld; ${STRIP:-strip} $out; check_needs $out ;;
	# What looks up names there is glibc's own: /etc/hosts and DNS. The linker says so, and that nothing is loaded.
	static) (link="-static-pie ${link#-pie}"; compile "${CC:-gcc}" build/static/sallyport proxy.c $small); ${STRIP:-strip} build/static/sallyport ;;
	# Their Lua is not packed: to unpack it is nine tenths of a command's time, and they run thousands of commands. What is
	# packed is tried by unit/lua_test, the build by clang, and the release.
	test) compile "${CC:-gcc}" build/test/sallyport proxy.c -O2 -g -DSALLYPORT_TEST -DSALLYPORT_STORED ;;
	asan) compile "${CC:-gcc}" build/asan/sallyport proxy.c $sanitize -U_FORTIFY_SOURCE -DSALLYPORT_TEST -DSALLYPORT_STORED ;;
	clang) compile clang build/clang/sallyport proxy.c -O2 -DSALLYPORT_TEST ;;
	tests/unit/all.c) all unit "${CC:-gcc}" $sanitize -U_FORTIFY_SOURCE ;;
	tests/fuzz/all.c) all fuzz clang $sanitize -U_FORTIFY_SOURCE -fsanitize=fuzzer ;;
	tests/unit/*.c) part "${CC:-gcc}" "build/unit/$name" "$1" $sanitize -U_FORTIFY_SOURCE ;;
	tests/fuzz/*.c) part clang "build/fuzz/$name" "$1" $sanitize -U_FORTIFY_SOURCE -fsanitize=fuzzer ;;
	tests/wire/resolve.c) "${CC:-gcc}" -O1 -Wall -Wextra -Werror -shared -fPIC -o build/resolve.so "$1" -ldl ;;
	tests/real/disk.c) "${CC:-gcc}" -O1 -Wall -Wextra -Werror -o build/disk "$1" -l:liblmdb.a -lpthread ;;
	tests/bench/load.c) "${CC:-gcc}" -O2 -Wall -Wextra -Werror -D_GNU_SOURCE -o build/load "$1" -lssl -lcrypto ;;
	tests/bench/scrub.c) part "${CC:-gcc}" build/scrub "$1" $small ;;
	tests/bench/sha256.c) "${CC:-gcc}" -O2 -Wall -Wextra -Werror -o build/sha256 "$1" -l:libbearssl.a ;;
	*) say "cannot build '$1': release, lean, static, test, asan or clang"; exit 2 ;;
	esac
}

# The binary needs glibc alone and stays small: a promise, so a failed build.
check_needs() {
	! readelf -d "$1" | grep NEEDED | grep -Ev 'lib(c|m)\.so\.6|ld-linux' || { say "needs more than libc"; exit 1; }
	# seal, the door and the listeners have taken more than 1.03 MB leaves; nghttp2 takes 130 KB, which 1.2 MB does not hold any more.
	# The page's policies, trials and variables took the last of 1.40 MB; the engine that loads OpenSSL takes 14 KB, its end towards agents 4;
	# WebSocket over HTTP/2, rules' counters and messages on the page, the manual's pages and what explain knows the last of 1.43;
	# what a rule saw, pages of faults, tenants' changes and lists of JSON that are passed over the last of 1.45; lean's 1.32
	# went with the page of all errors, and with the forms that show what stands.
	most=1330000
	[ "$1" != build/sallyport ] || most=1475000
	# There the linker of Debian 12 packs no addresses (40 KB), and a segment begins at a multiple of 64 KiB.
	case $(${CC:-gcc} -dumpmachine) in aarch64*) most=$((most + 110000)) ;; esac
	[ "$(wc -c <"$1")" -lt "$most" ] || { say "the binary has passed $most bytes"; exit 1; }
}

build() {
	manual
	embed
	for t in "${@:-release}"; do build_one "$t"; done
}

# build_all TARGET…: those older than the sources, one process a core.
build_all() {
	manual
	embed
	for t; do
		case $t in test|asan|clang) o=build/$t/sallyport ;; *resolve.c) o=build/resolve.so ;; *disk.c) o=build/disk ;; *) o=build/$(basename "$(dirname "$t")")/$(basename "$t" .c) ;; esac
		[ -e "$o" ] && [ -z "$(find build.sh proxy.c lua policies "${t%/*}" -newer "$o" -name '*.*' 2>/dev/null | head -n 1)" ] || echo "$t"
	done | xargs -r -n 1 -P "$(nproc)" "$0" build_one
}

run() { # shellcheck disable=SC2086
	deps $build_packages; build release; exec build/sallyport serve --demo "$@"
}

# Real clients from npm, at the versions that the lock file pins by hash. Without them their tests are skipped.
npm_packages() {
	cmp -s tests/real/package-lock.json build/npm/package-lock.json && return
	mkdir -p build/npm
	cp tests/real/package.json tests/real/.npmrc build/npm/
	say "installing clients and servers from npm"
	cp tests/real/package-lock.json build/npm/ && npm ci --prefix build/npm --ignore-scripts --no-audit --no-fund --silent >/dev/null 2>&1 ||
		{ rm -f build/npm/package-lock.json; say "npm did not install them: tests that need them are skipped"; }
}

# The same from PyPI.
pip_packages() {
	cmp -s tests/real/requirements.txt build/pip/requirements.txt && return
	say "installing clients from PyPI"
	rm -rf build/pip
	/usr/bin/python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --only-binary :all: --require-hashes --no-deps \
		--target build/pip -r tests/real/requirements.txt >/dev/null 2>&1 && cp tests/real/requirements.txt build/pip/ ||
		say "PyPI's were not installed: tests that need them are skipped"
}

# The same from Go's modules: h2spec.
go_packages() {
	[ ! -e build/h2spec ] || return 0
	say "building h2spec from its Go module"
	mkdir -p build
	(cd tests/real/h2spec && go build -mod=mod -o ../../../build/h2spec github.com/summerwind/h2spec/cmd/h2spec) >/dev/null 2>&1 ||
		say "h2spec was not built: its test is skipped"
}

test_() { # shellcheck disable=SC2086
	deps $build_packages $test_packages
	npm_packages
	pip_packages
	go_packages
	build_all tests/fuzz/all.c tests/unit/all.c asan tests/unit/request_test.c test clang tests/wire/resolve.c tests/real/disk.c
	exec /usr/bin/python3 tests/run.py "$@"    # Debian's own, which sees the python3-… packages
}

bench() { # shellcheck disable=SC2086
	deps $build_packages $bench_packages; build release tests/bench/load.c tests/bench/sha256.c tests/bench/scrub.c; exec /usr/bin/python3 tests/bench/bench.py "$@"
}

# fuzz TARGET [SECONDS]: a long run of one target; `test` gives each a short one.
fuzz() { # shellcheck disable=SC2086
	[ $# -gt 0 ] || { say "which? $(ls tests/fuzz/*.c)"; exit 2; }
	deps $build_packages $fuzz_packages; build "tests/fuzz/$1.c"
	mkdir -p "build/corpus/$1"
	exec "build/fuzz/$1" -max_total_time="${2:-600}" "build/corpus/$1" "tests/fuzz/corpus/$1"
}

clean() { rm -rf build tests/real/node_modules; }

verb=${1:-help}
[ $# -eq 0 ] || shift
case $verb in
deps) # shellcheck disable=SC2086
	deps $build_packages ;;
build) # shellcheck disable=SC2086
	flags; [ -n "${CC:-}" ] || deps $build_packages; build "$@" ;;
build_one|run|bench|fuzz|clean) "$verb" "$@" ;;
test) test_ "$@" ;;
*) say "usage: ./build.sh deps | build [release|lean|static|test|asan|clang] | run | test [WORD…] | bench | fuzz TARGET | clean"; exit 2 ;;
esac
