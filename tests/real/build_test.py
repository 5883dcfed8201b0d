"""build.sh: what it installs, which flags of the builder's it refuses, and the program for another machine."""
import os
import re
import shutil
import subprocess

import sallyport

SCRIPT = sallyport.ROOT / "build.sh"


def fake(directory, name, text):
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_architectures(t):
    """deps: another architecture's package is not this machine's, one for all is, and what is there is not installed again"""
    home = t.bare().dir
    (home / "bin").mkdir()
    log = home / "apt.log"
    fake(home / "bin", "dpkg", "echo amd64")
    fake(home / "bin", "dpkg-query", """
for p; do last=$p; done
case $last in
liblmdb-dev) echo "install ok installed arm64" ;;
libbearssl-dev) echo "install ok installed arm64"; echo "install ok installed amd64" ;;
lua-lpeg-dev) echo "install ok installed all" ;;
xz-utils) echo "deinstall ok config-files amd64" ;;
liblua5.4-dev) exit 1 ;;
*) echo "install ok installed amd64" ;;
esac""")
    fake(home / "bin", "apt-get", f'echo "$@" >>{log}')
    fake(home / "bin", "sudo", 'exec "$@"')
    r = subprocess.run([SCRIPT, "deps"], env={"PATH": f"{home}/bin:/usr/bin:/bin"}, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    asked = log.read_text().splitlines()[-1].split()
    assert [w for w in asked if "-" in w[1:] and not w.startswith("-")] == ["liblua5.4-dev", "liblmdb-dev", "xz-utils"], asked


def test_flags(t):
    """build: flags that cannot be honoured fail with the reason, before anything is installed or built"""
    home = t.bare().dir
    (home / "bin").mkdir()
    for name in ("apt-get", "gcc", "cc"):
        fake(home / "bin", name, f"touch {home}/ran")
    for variable, flags, why in (
            ("LDFLAGS", "-static", "dynamically"), ("LDFLAGS", "-L/opt -static-pie", "dynamically"), ("CFLAGS", "-O2 -static", "dynamically"),
            ("CC", "gcc -static", "dynamically"), ("LDFLAGS", "-Wl,-Bstatic", "dynamically"), ("LDFLAGS", "-Wl,-z,now,-static", "dynamically"),
            ("LDFLAGS", "-no-pie", "position-independent"), ("CFLAGS", "-fno-pie", "position-independent"), ("LDFLAGS", "-Wl,-z,norelro", "addresses"),
            ("LDFLAGS", "-shared", "a program"), ("CFLAGS", "-c", "a program")):
        r = subprocess.run([SCRIPT, "build"], env={"PATH": f"{home}/bin:/usr/bin:/bin", variable: flags}, capture_output=True, text=True)
        bad = flags.split()[-1]
        assert r.returncode == 1 and f"{bad} cannot be honoured" in r.stderr and why in r.stderr, (flags, r.returncode, r.stderr)
        assert not (home / "ran").exists(), flags


def copied(t):
    """-> a tree with what build.sh builds from"""
    tree = t.bare().dir / "tree"
    tree.mkdir()
    for name in ("build.sh", "proxy.c", "lua", "policies"):
        (shutil.copytree if (sallyport.ROOT / name).is_dir() else shutil.copy)(sallyport.ROOT / name, tree / name)
    return tree


def test_static(t):
    """static: the program loads nothing; it serves, reaches a server by name over TLS 1.2, and says what it cannot: TLS 1.3, OpenSSL on either side"""
    tree = copied(t)
    r = subprocess.run([tree / "build.sh", "build", "static"], env={**os.environ, "CFLAGS": "-O0 -U_FORTIFY_SOURCE", "CC": "gcc"}, capture_output=True, text=True,
                       timeout=300 * sallyport.SLOW)
    assert r.returncode == 0, r.stderr[-1500:]
    binary = tree / "build/static/sallyport"
    needs = subprocess.run(["readelf", "-dl", binary], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" not in needs and "INTERP" not in needs, needs
    t.binary = binary
    s, up = t.proxy(serve=False, upstream={"reply": {"body": "from upstream"}}, domains=[{"host": "api.test"}])
    why = "a static build has BearSSL alone"
    assert s.cli("version").stdout.endswith(f"TLS: BearSSL (TLS 1.2); no OpenSSL for TLS 1.3: {why}\n")
    for name, then in ("upstream-tls", "No upstream will be reached over TLS"), ("agent-tls", "BearSSL goes on."):
        assert f"OpenSSL cannot be loaded here: {why}. {then}" in s.cli("set", name, "openssl").stderr
    s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    s.cli("domain", "add", "default", "localhost", "--port", up.port, "--address", "127.0.0.0/8", "--address", "::1/128")
    s.serve("--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    r = s.request()
    assert r.status == 502 and b"cannot be loaded" in r.body, r.body
    doctor = s.cli("doctor", check=False).stdout
    assert re.search(f"bad +upstream TLS +no upstream can be reached over TLS: {why}\n +-> use a build that is not static, or sallyport set upstream-tls auto", doctor), doctor
    assert re.search(f"warn +agents' TLS +BearSSL, TLS 1.2, though agent-tls is openssl: {why}\n +-> use a build that is not static, or", doctor), doctor
    s.cli("set", "upstream-tls", "auto")
    assert s.request().body == b"from upstream"
    assert s.request(host="localhost", port=up.port, headers={"Host": f"localhost:{up.port}"}).body == b"from upstream"


def test_arm64(t):
    """arm64: cross-compiled as README says, the program needs libc alone, is no bigger than build.sh allows and, where qemu is there, runs"""
    t.need("aarch64-linux-gnu-gcc")
    places = ["/usr/lib/aarch64-linux-gnu", *re.findall(r"-L(\S+)", os.environ.get("LDFLAGS", ""))]
    if not any(os.path.exists(f"{p}/liblua5.4.a") for p in places):
        t.skip("the libraries for arm64 are not installed")
    tree = copied(t)
    env = {**os.environ, "CC": "aarch64-linux-gnu-gcc", "STRIP": "aarch64-linux-gnu-strip"}
    r = subprocess.run([tree / "build.sh", "build"], env=env, capture_output=True, text=True, timeout=600 * sallyport.SLOW)
    assert r.returncode == 0, r.stderr[-1500:]
    binary = tree / "build/sallyport"
    assert b"\x7fELF\x02\x01\x01" == binary.read_bytes()[:7] and binary.read_bytes()[18:20] == b"\xb7\x00", "EM_AARCH64"
    assert binary.stat().st_size < 1_140_000, binary.stat().st_size     # the linker adds up to 110 KB to what amd64 has
    if shutil.which("qemu-aarch64") and os.path.exists("/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1"):
        r = subprocess.run(["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", binary, "version"], capture_output=True, text=True, timeout=60 * sallyport.SLOW)
        assert r.returncode == 0 and r.stdout.startswith("sallyport "), (r.stdout, r.stderr)
