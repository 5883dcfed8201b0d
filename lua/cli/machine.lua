--- Files, folders, terminals, processes and listeners, for commands: parts of the module `host`, made of system calls.
local core, jail = require "host.core", require "jail"
local M = {}

local call, pack, unpack = jail.call, string.pack, string.unpack

local AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x1000
local O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_APPEND, O_NONBLOCK, O_CLOEXEC = 1, 2, 0x40, 0x80, 0x400, 0x800, 0x80000
local O_NOFOLLOW, O_PATH = jail.number "O_NOFOLLOW", 0x200000
local ENOENT, EACCES, EEXIST, ENOTDIR, ENOSPC, EADDRINUSE, ECONNREFUSED, EDQUOT = 2, 13, 17, 20, 28, 98, 111, 122
local LOCK_SH, LOCK_EX, LOCK_NB = 1, 2, 4
local LOOK_MS = 10        -- lock_held has a lock for an instant
local SIGCHLD = 17

-- As jail.call; nil, "absent" | why
local function try(...)
  local result, more, errno = call(...)
  if result then return result, more end
  return nil, (errno == ENOENT or errno == ENOTDIR) and "absent" or more
end

local function open(path, flags, mode) return try("openat", AT_FDCWD, path, flags | O_CLOEXEC, mode) end

-- Like a file of io.open: its descriptor is closed where its block ends.
local held = { __close = function(self) call("close", self.fd) end }

-- ---- files and folders -----------------------------------------------------------------------------

local NLINK = 17          -- where stx_nlink begins in struct statx (statx(2)); behind it lie uid, gid and mode

-- Is it a plain file of this user without a second link? nil, why
local function plain_file(fd)
  local ok, st = call("statx", fd, "", AT_EMPTY_PATH, 0x7ff, { 256 })
  if not ok then return nil, st end
  local links, uid, _, mode = unpack("=I4I4I4I2", st, NLINK)
  if mode & 0xf000 ~= 0x8000 or links ~= 1 or uid ~= core.uid() then return nil, "it is no plain file of this user's, or has another name" end
  return true
end

-- A plain file of this user without a second link, as io.open has files; no symbolic link is followed.
local function open_file(path, flags, how, prepare)
  local fd, why = open(path, flags | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 384)      -- 0600
  if not fd then return nil, why end
  local ok, bad = plain_file(fd)
  local file
  if ok then
    file, bad = core.file(fd, how)
    ok = file ~= nil
  end
  if ok then ok, bad = prepare(fd) end
  if ok then return file end
  if file then file:close() else call("close", fd) end
  return nil, bad
end

--- open_append(path, gid) -> file | nil, why. For reading and appending; it is made where it is absent: for its owner, and
-- for the group gid to read (-1: none).
function M.open_append(path, gid)
  return open_file(path, O_RDWR | O_APPEND, "a+", function(fd)
    local ok, why = gid == -1, nil
    if not ok then ok, why = call("fchown", fd, -1, gid) end
    if ok and gid ~= -1 then ok, why = call("fchmod", fd, 416) end      -- 0640
    if not ok then core.log(("ev=log_group gid=%d err=%q"):format(gid, why)) end
    return true
  end)
end

--- create(path [, mode]) -> file | nil, why. A new file, 0600 if mode is absent. An existing one is an error.
function M.create(path, mode)
  return open_file(path, O_WRONLY | O_EXCL, "w", function(fd) return call("fchmod", fd, mode or 384) end)
end

--- mkdir(path, mode) -> true | nil, "exists" | "absent" | why. A folder of exactly that mode, whatever the umask is.
function M.mkdir(path, mode)
  local ok, why, errno = call("mkdirat", AT_FDCWD, path, 448)         -- 0700
  if ok then ok, why, errno = call("fchmodat", AT_FDCWD, path, mode) end
  if ok then return true end
  return nil, errno == EEXIST and "exists" or (errno == ENOENT or errno == ENOTDIR) and "absent" or why
end

local FOLDER_CODES = { [EACCES] = "not_owner", [ENOSPC] = "full", [EDQUOT] = "full" }

--- folders(home) -> true | nil, code, fault. The data directory and the folders in it are there from now on, for this user
-- alone. Code and fault are as of store.open.
function M.folders(home)
  for _, sub in ipairs { "", "store", "log" } do
    local path = sub == "" and home or home .. "/" .. sub
    local made, why, errno = call("mkdirat", AT_FDCWD, path, 448)         -- 0700
    local st = core.stat(path, true)
    if not made and errno ~= EEXIST or not st then return nil, FOLDER_CODES[errno] or "io", { place = sub, why = why } end
    if st.type ~= "dir" then return nil, "io", { place = sub, why = "Not a directory" } end
    if st.uid ~= core.uid() then return nil, "not_owner", { place = sub, n = st.uid } end
    if st.mode & 63 ~= 0 then           -- 077
      made, why, errno = call("fchmodat", AT_FDCWD, path, 448)
      if not made then return nil, FOLDER_CODES[errno] or "io", { place = sub, why = why } end
    end
  end
  return true
end

--- lock(path, ms) -> lock | nil, "locked" | why. The lock of a file or folder (flock), waited for so long. `<close>` gives it back.
function M.lock(path, ms)
  local fd, why = open(path, 0)
  if not fd then return nil, why end
  for _ = 0, ms do
    if call("flock", fd, LOCK_EX | LOCK_NB) then return setmetatable({ fd = fd }, held) end
    call("ppoll", nil, 0, pack("jj", 0, 1000000), nil, 8)
  end
  call("close", fd)
  return nil, "locked"
end

--- lock_held(home) -> bool. Does a server run on this home?
function M.lock_held(home)
  local fd = open(home .. "/serve.lock", 0)
  if not fd then return false end
  local free = call("flock", fd, LOCK_SH | LOCK_NB)
  call("close", fd)
  return not free
end

--- serve_lock(home) -> lock | nil, "running" | why. Takes the lock of the one server of that store, for good, or until `<close>`
-- gives it back: the file stays open, in those that this process forks, too. lock_held takes it
-- for an instant to look at it: hence the wait.
function M.serve_lock(home)
  local fd, why = open(home .. "/serve.lock", O_RDWR | O_CREAT, 384)      -- 0600
  if not fd then return nil, why end
  for _ = 0, LOOK_MS do
    if call("flock", fd, LOCK_EX | LOCK_NB) then return setmetatable({ fd = fd }, held) end
    call("ppoll", nil, 0, pack("TT", 0, 1000000), nil, 8)
  end
  call("close", fd)
  return nil, "running"
end

--- sync(path) -> true | nil, why. A file's bytes, or a folder's names, are on the disk when this returns true.
function M.sync(path)
  local fd, why = open(path, 0)
  if not fd then return nil, why end
  local ok
  ok, why = try("fsync", fd)
  call("close", fd)
  return ok and true, why
end

--- disk(path) -> bytes | nil, why. The bytes that are free to this user in the path's file system.
function M.disk(path)
  local ok, st = try("statfs", path, { 256 })
  if not ok then return nil, st end
  local block, free, fragment = unpack("=j", st, 9), unpack("=j", st, 33), unpack("=j", st, 73)
  return free * (fragment ~= 0 and fragment or block)
end

local HELPERS_MODE = 18       -- 022: who else may write

--- helpers(dir [, look]) -> true | nil, why. Sets the helpers' folder, once, before there are workers. look: only checks it.
function M.helpers(dir, look)
  if dir:sub(1, 1) ~= "/" or dir:find("\0", 1, true) then return nil, "it is named from the root: /usr/local/lib/sallyport" end
  local st, why = core.stat(dir, true)
  if not st then return nil, why end
  if st.type ~= "dir" or st.uid ~= 0 and st.uid ~= core.uid() or st.mode & HELPERS_MODE ~= 0 then
    return nil, "it is no folder that only root or this user may write to"
  end
  if look then return true end
  local fd
  fd, why = open(dir, O_PATH | jail.number "O_DIRECTORY")
  if not fd then return nil, why end
  return core.configure { helpers = fd }
end

local MODULUS = 33         -- where it begins in the SubjectPublicKeyInfo of an RSA key of 2,048 bits

--- stand_in_key() -> PEM of a new RSA key, its modulus in hex
function M.stand_in_key()
  local secret = require "secret"
  local pem = "-----BEGIN PRIVATE KEY-----\n" .. secret.base64(core.rsa_key()):gsub(("."):rep(64), "%0\n") .. "\n-----END PRIVATE KEY-----\n"
  return pem, secret.hex(require("sign.core").public_key(pem):sub(MODULUS + 1, MODULUS + 256))
end

-- ---- terminals -------------------------------------------------------------------------------------

local TCGETS, TCSETSF, TIOCGWINSZ = 0x5401, 0x5404, 0x5413
local ECHO, VSUSP = 8 | 16 | 32 | 64, 10           -- ECHO, ECHOE, ECHOK, ECHONL; a place of c_cc

--- isatty(fd) -> bool, columns. A line without a size has 0 columns: nobody knows its width.
function M.isatty(fd)
  local ok, size = call("ioctl", fd, TIOCGWINSZ, { 8 })
  return call("ioctl", fd, TCGETS, { 64 }) ~= nil, ok and unpack("=I2", size, 3) or 0
end

--- tty_secret(prompt, opts) -> secret, empty | nil, "no_tty" | "cancelled" | code. Reads a line from the terminal without echo.
-- opts and codes: as for host.read_secret. A signal that ends the process waits until the echo is on again.
function M.tty_secret(prompt, opts)
  local fd = open("/dev/tty", O_RDWR)
  if not fd then return nil, "no_tty" end
  local tty <close> = setmetatable({ fd = fd }, held)
  local known, was = call("ioctl", fd, TCGETS, { 64 })
  if not known then return nil, "no_tty" end
  local ends = pack("<I8", 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14)       -- SIGHUP, SIGINT, SIGQUIT, SIGTERM
  local _, mask = call("rt_sigprocmask", 0, ends, { 8 }, 8)
  local signals = call("signalfd4", -1, ends, 8, O_CLOEXEC)
  local shown = unpack("=I4", was, 13)
  -- stopped and continued, the shell would have set echo again
  call("ioctl", fd, TCSETSF, was:sub(1, 12) .. pack("=I4", shown & ~ECHO) .. was:sub(17, 17 + VSUSP) .. "\0" .. was:sub(19 + VSUSP))
  -- Whatever ends this, an error too.
  local shows <close> = setmetatable({}, { __close = function()
    call("ioctl", fd, TCSETSF, was)
    call("write", fd, "\n", 1)
    if signals then call("close", signals) end
    call("rt_sigprocmask", 2, mask, nil, 8)
  end })
  if signals and call("write", fd, prompt, #prompt) then
    local n, ready = call("ppoll", { pack("=i4i2i2i4i2i2", fd, 1, 0, signals, 1, 0) }, 2, nil, nil, 8)
    if n and unpack("=i2", ready, 15) == 0 then return core.read_secret("line", fd, opts) end
  end
  return nil, "cancelled"
end

-- ---- processes -------------------------------------------------------------------------------------

local SIGPIPE, SIGXFSZ, SIG_IGN = 13, 25, 1
local RLIMIT_CORE, RLIMIT_NOFILE, DESCRIPTORS = 4, 7, 65536
local before        -- as harden found it

local function ignored(signal)
  return select(2, call("rt_sigaction", signal, pack("=JJJI8", SIG_IGN, 0, 0, 0), { string.packsize "=JJJI8" }, 8))
end

-- The limit is `most`, or the most that there may be; what it was
local function limited(which, most)
  local ok, was = call("prlimit64", 0, which, nil, { 16 })
  if not ok then return end
  local hard = unpack("=I8", was, 9)
  call("prlimit64", 0, which, pack("=I8I8", math.ult(hard, most) and hard or most, hard))
  return was
end

--- harden(). No core dump, no inherited umask, as many descriptors as we may have; a pipe that nobody reads and a file at its size limit
-- are an error of the write, not the end.
function M.harden()
  before = { umask = call("umask", 63), [SIGPIPE] = ignored(SIGPIPE), [SIGXFSZ] = ignored(SIGXFSZ),
    [RLIMIT_CORE] = limited(RLIMIT_CORE, 0), [RLIMIT_NOFILE] = limited(RLIMIT_NOFILE, DESCRIPTORS) }
end

--- restore(). For a program that this process becomes: all that as it was before harden.
function M.restore()
  call("umask", before.umask)
  for _, signal in ipairs { SIGPIPE, SIGXFSZ } do call("rt_sigaction", signal, before[signal], nil, 8) end
  for _, limit in ipairs { RLIMIT_CORE, RLIMIT_NOFILE } do call("prlimit64", 0, limit, before[limit]) end
end

--- become(uid, gid) -> true | nil, why. Root's process goes on as this user, with his groups as /etc has them, and for good.
function M.become(uid, gid)
  -- -1 would change nothing; 32-bit processors have calls for 16 bits of a number here
  local most = string.packsize "T" == 8 and 0xfffffffe or 0xfffe
  assert(uid > 0 and uid <= most and gid >= 0 and gid <= most, "no user")
  local function lines(path)
    local file <close> = io.open(path)
    return (file and file:read("a") or ""):gmatch "[^\n]+"
  end
  local user, groups, ok, why = nil, { gid }, nil, nil
  for line in lines "/etc/passwd" do
    local name, number = line:match "^([^:]+):[^:]*:(%d+):"
    if tonumber(number) == uid then user = user or name end
  end
  for line in lines "/etc/group" do
    local number, members = line:match "^[^:]+:[^:]*:(%d+):(.*)"
    if user and number and ("," .. members .. ","):find("," .. user .. ",", 1, true) then groups[#groups + 1] = tonumber(number) end
  end
  ok, why = call("setgroups", #groups, pack(("=I4"):rep(#groups), table.unpack(groups)))
  if ok then ok, why = call("setresgid", gid, gid, gid) end
  if ok then ok, why = call("setresuid", uid, uid, uid) end
  return ok and true, why
end

--- interrupts() -> wait. From now on SIGHUP, SIGINT and SIGTERM leave this process running: wait(ms) -> did one come within ms?
function M.interrupts()
  local ends = pack("<I8", 1 << 0 | 1 << 1 | 1 << 14)
  local signals = call("signalfd4", -1, ends, 8, O_CLOEXEC)
  if signals then call("rt_sigprocmask", 0, ends, nil, 8) end
  return function(ms)
    local n = call("ppoll", { pack("=i4i2i2", signals or -1, 1, 0) }, 1, pack("jj", ms // 1000, ms % 1000 * 1000000), nil, 8)
    return n ~= nil and n > 0
  end
end

--- aside(fn) -> pid | nil, why. Runs fn() in a child process, which ends with it. Only for a process without a loop and threads.
function M.aside(fn)
  local pid, why = call("clone", SIGCHLD)
  if pid == 0 then call("exit_group", pcall(fn) and 0 or 1) end
  return pid, why
end

--- ended(pid, block) -> bool. Has that child ended? block: waits until it has.
function M.ended(pid, block) return call("wait4", pid, nil, block and 0 or 1) ~= 0 end       -- WNOHANG

-- ---- listeners -------------------------------------------------------------------------------------

local AF_UNIX, AF_INET, AF_INET6, SOCK_STREAM = 1, 2, 10, 1
local PATH_MAX, BACKLOG = 107, 4096       -- bytes of a socket's path; the kernel caps the other at net.core.somaxconn
local ON = pack("=i4", 1)

-- Is that descriptor, with which the process was started, a TCP or Unix socket that listens? Then it has the flags of ours.
local function listens(fd)
  for option, want in pairs { [3] = SOCK_STREAM, [30] = 1 } do         -- SO_TYPE, SO_ACCEPTCONN
    local ok, value = call("getsockopt", fd, 1, option, { 4 }, { pack("=I4", 4) })
    if not ok or unpack("=i4", value) ~= want then return false end
  end
  local flags = call("fcntl", fd, 3)                                   -- F_GETFL, F_SETFD, F_SETFL
  return flags and call("fcntl", fd, 2, 1) and call("fcntl", fd, 4, flags | O_NONBLOCK)
end

-- A socket file that nobody listens on is removed.
local function clear(path, address)
  local is, fd = core.stat(path), call("socket", AF_UNIX, SOCK_STREAM | O_NONBLOCK | O_CLOEXEC, 0)
  local ok, _, errno = nil, nil, nil
  if fd and is and is.type == "socket" then ok, _, errno = call("connect", fd, address, #address) end
  if not ok and errno == ECONNREFUSED then call("unlinkat", AT_FDCWD, path, 0) end
  if fd then call("close", fd) end
end

-- A socket that listens: descriptor | nil, why, errno
local function bound(spec, family, address)
  local fd, why, errno = call("socket", family, SOCK_STREAM | O_NONBLOCK | O_CLOEXEC, 0)
  if not fd then return nil, why, errno end
  call("setsockopt", fd, 1, 2, ON, 4)                                        -- SO_REUSEADDR
  if family == AF_INET6 then call("setsockopt", fd, 41, 26, ON, 4) end       -- IPV6_V6ONLY
  -- IPV6_TRANSPARENT, IP_TRANSPARENT: for TPROXY; without the right to it REDIRECT is left
  if spec.captures then call("setsockopt", fd, family == AF_INET6 and 41 or 0, family == AF_INET6 and 75 or 19, ON, 4) end
  -- A socket file has its mode from the umask, and its group before anybody can connect.
  local mask = spec.path and call("umask", 511 & ~(spec.mode or 384))
  local ok
  ok, why, errno = call("bind", fd, address, #address)
  if mask then call("umask", mask) end
  if ok and spec.path and (spec.gid or -1) ~= -1 then
    ok, why, errno = call("fchownat", AT_FDCWD, spec.path, -1, spec.gid, AT_SYMLINK_NOFOLLOW)
  end
  if ok then ok, why, errno = call("listen", fd, BACKLOG) end
  if ok then return fd end
  call("close", fd)
  return nil, why, errno
end

--- serve_page(list, handler) -> true | nil, why. Listeners that the process was started with, as { fd =, tls = } each: their requests are
-- tasks that run handler(req), as with host.listen.
function M.serve_page(list, handler)
  for _, l in ipairs(list) do
    local where, why = core.adopt { fd = l.fd, kind = "page", tls = l.tls, handler = handler }
    if not where then return nil, why end
  end
  return true
end

--- listen{ address=, port= | path=, mode=, gid= | fd=; kind=, tls=, host=, captures=, control=, agent=, handler= }
-- -> "as bound", port, descriptor | nil, "in_use" | why
-- Port 0: the kernel picks one. `path`: a Unix socket, whose file gets the mode and the group (-1: none). `fd`: a listener that
-- the process was started with. kind: "proxy" (if absent), "gateway" or "page". tls: from the first byte, with what tls.serve says, or a
-- certificate of our CA for `host` (else the address that was dialled). `agent`: whose all its connections are. captures: they
-- were redirected. control: commands come. Without a handler the listener is for host.serve. With a handler it is the only
-- listener and accepts connections as a worker does: each request, even a CONNECT, is a task that runs handler(req). The
-- address is then a loopback one, since the requests hold authorization codes.
function M.listen(spec)
  local fd, why, errno = spec.fd, nil, nil
  local text, bytes = nil, nil
  if spec.address then text, bytes = require("addr").parse(spec.address) end
  assert(fd or bytes or spec.path and #spec.path <= PATH_MAX, "not an address")
  if spec.handler then
    assert(bytes and (bytes:sub(1, 1) == "\127" and #bytes == 4 or text == "::1"), "not a loopback address")
    core.listen_close()
  end
  if not fd and spec.path then
    local address = pack("=I2z", AF_UNIX, spec.path)
    clear(spec.path, address)
    fd, why, errno = bound(spec, AF_UNIX, address)
  elseif not fd and #bytes == 4 then
    fd, why, errno = bound(spec, AF_INET, pack("=I2>I2c4j", AF_INET, spec.port or 0, bytes, 0))
  elseif not fd then
    fd, why, errno = bound(spec, AF_INET6, pack("=I2>I2I4c16I4", AF_INET6, spec.port or 0, 0, bytes, 0))
  end
  if not fd then return nil, errno == EADDRINUSE and "in_use" or why end
  if spec.fd and not listens(fd) then return nil, "it is no listening socket" end
  local where, port = core.adopt { fd = fd, kind = spec.kind, tls = spec.tls, host = spec.host,
    captures = spec.captures, control = spec.control, agent = spec.agent, handler = spec.handler }
  if not where and not spec.fd then call("close", fd) end
  return where, port, fd
end

return M
