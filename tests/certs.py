"""Certificates for test upstreams: one root that the proxy is told to trust, and leaves with each fault.

make(dir) leaves root.pem and NAME.pem (chain and key in one file, as Python's ssl and nginx take it).
`openssl ca` does the signing, because it alone sets both dates.
"""
import datetime
import os
import pathlib
import subprocess
import tempfile

HOSTS = ["api.test", "auth.test", "git.test", "www.test", "deep.a.test", "*.test", "*.x.test", "*.example.com", "localhost", "*.s3.us-east-1.amazonaws.com", "*.us-east-1.amazonaws.com",
         "a.mrap.accesspoint.s3-global.amazonaws.com"]
CONFIG = """
[ca]
default_ca = own
[own]
database = {dir}/index
new_certs_dir = {dir}
serial = {dir}/serial
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[ca_ext]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf_ext]
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
subjectAltName = {san}
"""


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def day(offset):
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=offset)
    return when.strftime("%Y%m%d%H%M%SZ")


class Maker:
    def __init__(self, out):
        self.out = pathlib.Path(out)
        (self.out / "index").write_text("")
        (self.out / "serial").write_text("1000\n")

    def path(self, name):
        return str(self.out / name)

    def config(self, san="DNS:unused.test"):
        (self.out / "ca.cnf").write_text(CONFIG.format(dir=self.out, san=san))
        return self.path("ca.cnf")

    def key(self, name, kind="ec"):
        how = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "ec" else \
              ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
        openssl("genpkey", *how, "-out", self.path(name + ".key"))

    def sign(self, name, issuer, ext, start=-1, end=30, san="DNS:unused.test", kind="ec", cn=None):
        """Makes NAME.key and NAME.crt; issuer None signs with its own key."""
        self.key(name, kind)
        openssl("req", "-new", "-key", self.path(name + ".key"), "-subj", f"/CN={cn or name}",
                "-out", self.path(name + ".csr"))
        who = ["-selfsign", "-keyfile", self.path(name + ".key")] if issuer is None else \
              ["-cert", self.path(issuer + ".crt"), "-keyfile", self.path(issuer + ".key")]
        openssl("ca", "-batch", "-notext", "-config", self.config(san), "-extensions", ext, *who,
                "-startdate", day(start), "-enddate", day(end),
                "-in", self.path(name + ".csr"), "-out", self.path(name + ".crt"))

    def bundle(self, name, *certs):
        text = "".join((self.out / (c + ".crt")).read_text() for c in (name, *certs))
        (self.out / (name + ".pem")).write_text(text + (self.out / (name + ".key")).read_text())


def make(out):
    """All of them, once: later callers find them there. They last for a day at least."""
    out = pathlib.Path(out)
    done = out / "done"
    if done.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(dir=out.parent))
    m = Maker(work)
    names = ",".join("DNS:" + h for h in HOSTS)
    m.sign("root", None, "ca_ext", end=3650, cn="Test root")
    m.sign("middle", "root", "ca_ext", end=3650, cn="Test intermediate")
    m.sign("stranger", None, "ca_ext", end=3650, cn="Nobody knows this root")
    for name, issuer, more in [
            ("ok", "root", {}), ("rsa", "root", {"kind": "rsa"}), ("chain", "middle", {}), ("incomplete", "middle", {}),
            ("expired", "root", {"start": -30, "end": -1}), ("not_yet", "root", {"start": 5}),
            ("wrong_name", "root", {"san": "DNS:someone-else.test"}),
            ("no_san", "root", {"san": "email:none@example.com"}),
            ("ip_san", "root", {"san": "IP:127.0.0.1,IP:127.0.0.2,IP:93.184.216.34"}),
            ("ip_as_dns", "root", {"san": "DNS:127.0.0.1,DNS:93.184.216.34", "cn": "93.184.216.34"}),
            ("ip_other", "root", {"san": "IP:127.9.9.9"}),
            ("unknown_root", "stranger", {}), ("self_signed", None, {})]:
        m.sign(name, issuer, "leaf_ext", **{"san": names, "cn": name + ".test", **more})
        m.bundle(name, *(["middle"] if name == "chain" else []))
    (work / "root.pem").write_text((work / "root.crt").read_text())
    (work / "done").write_text("")
    try:
        os.rename(work, out)
    except OSError:      # another process was first
        pass
    return out


def leaf(certs, out, hosts):
    """One more for hosts of a test's own, signed by the same root -> its file."""
    certs, out = pathlib.Path(certs), pathlib.Path(out)
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=leaf",
            "-keyout", str(out / "leaf.key"), "-out", str(out / "leaf.csr"))
    (out / "leaf.ext").write_text("extendedKeyUsage=serverAuth\nsubjectAltName=" + ",".join(("IP:" if h[0].isdigit() and h.count(".") == 3 else "DNS:") + h for h in hosts))
    openssl("x509", "-req", "-in", str(out / "leaf.csr"), "-CA", str(certs / "root.crt"), "-CAkey", str(certs / "root.key"),
            "-set_serial", "4096", "-days", "2", "-extfile", str(out / "leaf.ext"), "-out", str(out / "leaf.crt"))
    (out / "leaf.pem").write_text((out / "leaf.crt").read_text() + (out / "leaf.key").read_text())
    return out / "leaf.pem"
