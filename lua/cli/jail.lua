--- A jail for one command: namespaces, mounts and a filter of system calls, for `sallyport run`.
-- Here is what is done, in which order and why; the module `jail` (proxy.c) makes the system calls and knows nothing. Three
-- processes: the *keeper* stays outside and is what the shell waits for; the *maker*, its child for a moment, enters the new
-- namespaces and makes the sockets (it shares the keeper's table of descriptors, so they are the keeper's too) and then two
-- children of the keeper: *init*, process 1 of the jail, and the *command*, which makes the mounts and becomes the program.
local core = require "jail"
local M = {}

local pack, unpack = string.pack, string.unpack

local AT_FDCWD, AT_EMPTY_PATH, O_CLOEXEC = -100, 0x1000, 0x80000
local CLONE_FILES, CLONE_PARENT, SIGCHLD = 0x400, 0x8000, 17
local CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWTIME =
  0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80
local AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
local SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 1, 2, 5
local PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 4, 24, 38, 22
local EPERM, ENOENT, ENOEXEC, EACCES, ENOSYS, EPROTONOSUPPORT, EAFNOSUPPORT = 1, 2, 8, 13, 38, 93, 97
local SEEKS_ON = { [ENOENT] = true, [EACCES] = true, [19] = true, [20] = true, [110] = true, [116] = true }     -- ENODEV, ENOTDIR, ETIMEDOUT, ESTALE

--- The folder of the jail's own files: the CA and its bundle.
M.FOLDER = "/run/sallyport"
--- Where the proxy listens in the jail: its network is new, so the port is free.
M.PORT = 7080
M.AF_UNIX, M.SOCK_STREAM, M.SOCK_CLOEXEC = AF_UNIX, SOCK_STREAM, O_CLOEXEC

-- An array of pointers to texts, with a NULL at its end.
local function pointers(list)
  local at = {}
  for i, text in ipairs(list) do
    if text:find("\0", 1, true) then error("a NUL in an argument or a variable") end
    at[8 * (i - 1)] = text
  end
  return { 8 * (#list + 1), at = at }
end

--- Becomes the program, which is looked for in PATH as execvp does: nil, why, errno
function M.exec(argv, env)
  local name, why, errno, denied = argv[1], "No such file or directory", ENOENT, nil
  local sought = name ~= "" and not name:find("/", 1, true)
  for dir in (sought and (os.getenv("PATH") or "/bin:/usr/bin") or ""):gmatch("[^:]*") do
    local path = dir ~= "" and dir .. "/" .. name or name
    _, why, errno = core.call("execve", path, pointers(argv), pointers(env))
    if errno == ENOEXEC then      -- no program but a text: a shell's
      _, why, errno = core.call("execve", "/bin/sh", pointers { "/bin/sh", path, table.unpack(argv, 2) }, pointers(env))
    end
    if errno == EACCES then denied = why end
    if not SEEKS_ON[errno] then return nil, why, errno end
  end
  if denied then return nil, denied, EACCES end
  return nil, why, errno
end

-- As core.call; what fails is raised as { step =, why =, errno = }.
local function must(step, name, ...)
  local result, a, b = core.call(name, ...)
  if not result then error({ step = step, why = a, errno = b }, 0) end
  return result, a, b
end

-- ---- the filter of system calls --------------------------------------------------------------------

-- What this release does not know does not exist: a call of a later kernel could be a way out. x32's numbers (from
-- 0x40000000) are above it too. 462 is mseal (Linux 6.10); numbers above 402 are the same on x86_64 and aarch64.
local NUMBER_MAX = 462

-- { call, errno }: refused whatever its arguments are.
local refused = {
  -- other namespaces and the mounts that hide what is outside
  { "setns", EPERM }, { "mount", EPERM }, { "umount2", EPERM }, { "pivot_root", EPERM }, { "chroot", EPERM }, { "open_tree", EPERM },
  { "move_mount", EPERM }, { "mount_setattr", EPERM }, { "fsopen", EPERM }, { "fsconfig", EPERM }, { "fsmount", EPERM }, { "fspick", EPERM },
  { "clone3", ENOSYS },              -- its flags are in memory, where no filter sees them; libc then takes clone
  -- files by number instead of by name: past the mounts
  { "name_to_handle_at", EPERM }, { "open_by_handle_at", EPERM }, { "fanotify_init", EPERM },
  -- makes system calls that no filter sees
  { "io_uring_setup", ENOSYS }, { "io_uring_enter", ENOSYS }, { "io_uring_register", ENOSYS },
  -- the kernel's store of keys is the user's, not the jail's
  { "keyctl", EPERM }, { "add_key", EPERM }, { "request_key", EPERM },
  -- descriptors and memory of others, and what most exploits of kernels begin with
  { "pidfd_getfd", EPERM }, { "kcmp", EPERM }, { "bpf", EPERM }, { "perf_event_open", EPERM }, { "userfaultfd", EPERM },
  -- the machine's
  { "acct", EPERM }, { "delete_module", EPERM }, { "finit_module", EPERM }, { "init_module", EPERM }, { "kexec_load", EPERM },
  { "quotactl", EPERM }, { "reboot", EPERM }, { "settimeofday", EPERM }, { "swapoff", EPERM }, { "swapon", EPERM }, { "syslog", EPERM },
  { "vhangup", EPERM },
}

local NEW = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET

local LOAD, JEQ, JGT, JSET, AND, RET = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06        -- linux/bpf_common.h, on 32-bit words
local ALLOW, KILL, ERRNO = 0x7fff0000, 0x80000000, 0x00050000                    -- linux/seccomp.h
local NR, ARCH = 0, 4                                                            -- struct seccomp_data
local function ARG(i) return 16 + 8 * i end      -- its low half: domains, types, flags and requests are 32-bit numbers

-- AUDIT_ARCH of this program, from its own ELF header; nil for a byte order that the offsets above are not for.
local function machine(exe)
  local file <close> = io.open(exe, "rb")
  local head = file and file:read(20) or ""
  if #head < 20 or head:byte(6) ~= 1 then return nil end
  return unpack("<I2", head, 19) | 0x40000000 | (head:byte(5) == 2 and 0x80000000 or 0)
end

--- The filter as instructions of classic BPF | nil: not for this machine.
-- how = { exe = this program's file, unix = may it make Unix sockets, shares = is it in the process group of others }
function M.filter(how)
  local arch, out = machine(how.exe), {}
  if not arch then return nil end
  local function add(code, k, yes, no) out[#out + 1] = pack("<I2BBI4", code, yes or 0, no or 0, k) end
  local function deny(errno) add(RET, ERRNO | errno) end
  -- A call with rules of its own: body() ends in a return on each way.
  local function on(name, body)
    local number = core.number(name)
    add(LOAD, NR)
    local at = #out + 1
    add(JEQ, number)
    body()
    add(RET, ALLOW)
    out[at] = pack("<I2BBI4", JEQ, 0, #out - at, number)
  end
  -- Inside of `on`: goes on where the argument is one of these, else refuses.
  local function one_of(list, errno)
    for i, value in ipairs(list) do add(JEQ, value, #list - i + 1) end
    deny(errno)
  end
  add(LOAD, ARCH)
  add(JEQ, arch, 1)
  add(RET, KILL)                    -- another ABI's numbers mean other calls
  add(LOAD, NR)
  add(JGT, NUMBER_MAX, 0, 1)
  deny(ENOSYS)
  for _, row in ipairs(refused) do
    add(JEQ, core.number(row[1]), 0, 1)
    deny(row[2])
  end
  for _, name in ipairs { "clone", "unshare" } do
    on(name, function()
      add(LOAD, ARG(0))
      add(JSET, NEW | (name == "unshare" and CLONE_NEWTIME or 0), 0, 1)      -- clone has a signal's number in the place of NEWTIME
      deny(EPERM)
    end)
  end
  on("socket", function()
    add(LOAD, ARG(0))
    add(JEQ, AF_NETLINK, 0, 4)
    add(LOAD, ARG(2))
    add(JEQ, 0, 0, 1)               -- NETLINK_ROUTE: what getifaddrs asks
    add(RET, ALLOW)
    deny(EAFNOSUPPORT)
    if not how.unix then
      add(JEQ, AF_UNIX, 0, 1)
      deny(EACCES)
    end
    one_of(how.unix and { AF_INET, AF_INET6, AF_UNIX } or { AF_INET, AF_INET6 }, EAFNOSUPPORT)
    add(LOAD, ARG(1))
    add(AND, 15)
    one_of({ SOCK_STREAM, SOCK_DGRAM }, EPERM)
    add(LOAD, ARG(2))               -- TCP, UDP, and MPTCP, which Go takes for TCP: SCTP, SMC and others are for nobody here
    one_of({ 0, 6, 17, 262 }, EPROTONOSUPPORT)
    add(LOAD, ARG(1))
    add(AND, 15)
    if how.unix then                -- a datagram of it could go to every Unix socket
      add(JEQ, SOCK_STREAM, 3)
      add(LOAD, ARG(0))
      add(JEQ, AF_UNIX, 0, 1)
      deny(EACCES)
    end
  end)
  on("socketpair", function()       -- a pair of datagram sockets can send to addresses all the same (unix(7))
    add(LOAD, ARG(1))
    add(AND, 15)
    one_of({ SOCK_STREAM, SOCK_SEQPACKET }, EACCES)
  end)
  on("ioctl", function()
    add(LOAD, ARG(1))
    add(JEQ, 0x5412, 3)             -- TIOCSTI: types for the user, into the shell that comes back
    add(JEQ, 0x5423, 2)             -- TIOCSETD: makes it another kind of line
    add(JEQ, 0x5452, 1)             -- FIOASYNC: see fcntl
    add(JEQ, 0x541c, 0, 1)          -- TIOCLINUX: pastes
    deny(EPERM)
  end)
  if how.shares then                -- the group may hold the server: to stop and to go on is what job control needs
    on("kill", function()
      add(LOAD, ARG(0))
      add(JEQ, 0, 1)
      add(RET, ALLOW)
      add(LOAD, ARG(1))
      one_of({ 0, 18, 19, 20, 21, 22, 28 }, EPERM)
    end)
    on("pidfd_send_signal", function()
      add(LOAD, ARG(3))
      add(JSET, 4, 0, 1)            -- PIDFD_SIGNAL_PROCESS_GROUP (Linux 6.9)
      deny(EPERM)
    end)
    on("fcntl", function()          -- a terminal's SIGIO, or any signal in its place, goes to the group in the foreground
      add(LOAD, ARG(1))
      add(JEQ, 4, 0, 3)             -- F_SETFL
      add(LOAD, ARG(2))
      add(JSET, 0x2000, 0, 1)       -- O_ASYNC
      deny(EPERM)
    end)
  end
  for call, process in pairs { setpriority = 0, ioprio_set = 1 } do     -- of a group or a user: of those outside as well
    on(call, function()
      add(LOAD, ARG(0))
      one_of({ process }, EPERM)
    end)
  end
  add(RET, ALLOW)
  return table.concat(out)
end

-- ---- the network -----------------------------------------------------------------------------------

-- lo is up, and 198.18.0.0/15 (RFC 2544: nobody's on the internet) is local: what is dialled there comes to 0.0.0.0's listeners.
local function network()
  local s = must("the network", "socket", AF_INET, SOCK_DGRAM | O_CLOEXEC, 0)
  must("the network", "ioctl", s, 0x8914, pack("=c16i2c22", "lo", 0x41, ""))                 -- SIOCSIFFLAGS: UP, RUNNING
  local n = must("the network", "socket", AF_NETLINK, 3 | O_CLOEXEC, 0)
  local body = pack("=BBBBBBBBI4", AF_INET, 15, 0, 0, 255, 3, 254, 2, 0)                    -- rtmsg: table local, scope host, type local
    .. pack("=I2I2c4", 8, 1, "\198\18\0\0") .. pack("=I2I2I4", 8, 4, 1)                     -- RTA_DST; RTA_OIF: lo is 1
  local route = pack("=I4I2I2I4I4", 16 + #body, 24, 0x605, 1, 0) .. body                    -- RTM_NEWROUTE: request, ack, create
  must("the network", "sendto", n, route, #route)
  local _, answer = must("the network", "read", n, { 512 }, 512)
  local errno = unpack("=i4", answer, 17)
  if errno ~= 0 then error({ step = "the network", why = "no route", errno = -errno }, 0) end
  core.call("close", s)
  core.call("close", n)
end

local function listener(l)
  local datagram = l.kind == "dns-udp"
  local s = must("a listener", "socket", AF_INET, (datagram and SOCK_DGRAM or SOCK_STREAM) | O_CLOEXEC, 0)
  must("a listener", "setsockopt", s, 1, 2, pack("=i4", 1), 4)      -- SO_REUSEADDR
  local address = pack("=I2>I2", AF_INET, l.port) .. (l.kind == "transparent" and "\0\0\0\0" or "\127\0\0\1") .. ("\0"):rep(8)
  must("a listener", "bind", s, address, 16)
  if not datagram then must("a listener", "listen", s, 1024) end
  return s
end

-- ---- files -----------------------------------------------------------------------------------------

local MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18

--- The devices of the jail. Terminals of others, sound, disks and virtual machines' doors are not among them.
local devices = { "null", "zero", "full", "random", "urandom", "tty" }
local links = { fd = "/proc/self/fd", stdin = "/proc/self/fd/0", stdout = "/proc/self/fd/1", stderr = "/proc/self/fd/2", ptmx = "pts/ptmx" }

-- `maybe`: where the user cannot get to the path, it needs no cover.
local function mount(step, path, from, kind, flags, options, maybe)
  local ok, why, errno = core.call("mount", from, path, kind, flags, options)
  if not ok and not (maybe and (errno == 2 or errno == 13 or errno == 20)) then error({ step = step .. path, why = why, errno = errno }, 0) end
end

local function tmpfs(path, options, maybe) mount("a fresh ", path, "tmpfs", "tmpfs", MS_NOSUID | MS_NODEV, options, maybe) end

-- Folders on the way to a path, made where they are missing.
local function make_way(path)
  local at = ""
  for part in path:match("^(.*)/[^/]*$"):gmatch("[^/]+") do
    at = at .. "/" .. part
    core.call("mkdirat", AT_FDCWD, at, 493)     -- 0755
  end
end

local function write_file(path, text)
  make_way(path)
  local fd = must(path, "openat", AT_FDCWD, path, 0x1 | 0x40 | 0x200 | O_CLOEXEC, 420)      -- WRONLY, CREAT, TRUNC, 0644
  local at = 1
  while at <= #text do at = at + must(path, "write", fd, text:sub(at), #text - at + 1) end
  core.call("close", fd)
end

-- A tree of mounts that is kept while its place is covered.
local function take(path)
  return core.call("open_tree", AT_FDCWD, path, 1 | 0x8000 | O_CLOEXEC)                      -- OPEN_TREE_CLONE, AT_RECURSIVE
end

local function put(fd, path)
  must(path, "move_mount", fd, "", AT_FDCWD, path, 4)                                        -- MOVE_MOUNT_F_EMPTY_PATH
  core.call("close", fd)
end

local function is_dir(path)
  local ok, st = core.call("statx", AT_FDCWD, path, 0, 0x7ff, { 256 })
  return ok and unpack("=I2", st, 29) & 0xf000 == 0x4000
end

-- with = { covered = { path, options }…, kept = { path }…, files = { { path, text }… }, over = { { path, of }… } }
local function mounts(with)
  must("a mount namespace of its own", "mount", "none", "/", nil, MS_REC | MS_PRIVATE, nil)
  local taken = {}
  for _, path in ipairs(with.kept) do
    taken[#taken + 1] = { path, must(path, "open_tree", AT_FDCWD, path, 1 | 0x8000 | O_CLOEXEC), is_dir(path) }
  end
  for _, name in ipairs(devices) do
    local fd = take("/dev/" .. name)
    if fd then taken[#taken + 1] = { "/dev/" .. name, fd, false } end
  end
  local tty = with.tty and take(with.tty)
  if tty then taken[#taken + 1] = { "/dev/console", tty, false } end
  must("a /proc of its own", "mount", "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nil)
  for _, c in ipairs(with.covered) do tmpfs(c[1], c[2], c[3]) end
  for name, to in pairs(links) do core.call("symlinkat", to, AT_FDCWD, "/dev/" .. name) end
  for _, dir in ipairs { "/dev/pts", "/dev/shm" } do core.call("mkdirat", AT_FDCWD, dir, 493) end
  must("terminals of its own", "mount", "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
  tmpfs("/dev/shm", "mode=1777")
  for _, t in ipairs(taken) do
    if t[3] then make_way(t[1] .. "/x") elseif not core.call("statx", AT_FDCWD, t[1], 0, 1, { 256 }) then write_file(t[1], "") end
    put(t[2], t[1])
  end
  -- What came back above may show a proxy's home: it is covered behind that.
  for _, path in ipairs(with.hidden) do tmpfs(path, "mode=000,size=4k", true) end
  for _, f in ipairs(with.files) do write_file(f[1], f[2]) end
  for _, o in ipairs(with.over) do mount("", o[1], o[2], nil, MS_BIND, nil, o[3]) end
  -- Control groups of the user could stop what is outside; mount_setattr is there since Linux 5.12
  must("/sys", "mount_setattr", AT_FDCWD, "/sys", 0x8000, pack("=I8I8I8I8", 1, 0, 0, 0), 32)
end

-- ---- descriptors -----------------------------------------------------------------------------------

--- Numbers of the open descriptors of this process.
local function descriptors()
  local dir, out = must("descriptors", "openat", AT_FDCWD, "/proc/self/fd", 0x10000 | O_CLOEXEC), {}
  repeat
    local n, text = must("descriptors", "getdents64", dir, { 32768 }, 32768)
    local at = 1
    while at <= n do
      local length, name = unpack("=I2", text, at + 16), unpack("z", text, at + 19)
      local fd = math.tointeger(tonumber(name))
      if fd and fd ~= dir then out[#out + 1] = fd end
      at = at + length
    end
  until n == 0
  core.call("close", dir)
  return out
end

local MEMORY_DEVICES = { [3] = true, [5] = true, [7] = true, [8] = true, [9] = true }      -- null, zero, full, random, urandom

--- nil where the command may keep the descriptor, else what it is: a socket of the network outside, or a folder, would be
-- a way out of the jail. As one of the first three (`standard`) a Unix socket that is connected goes where it goes.
function M.unfit(fd, standard)
  local ok, st, errno = core.call("statx", fd, "", AT_EMPTY_PATH, 0x7ff, { 256 })
  if not ok then return errno ~= 9 and "unreadable" or nil end          -- EBADF: there is none
  local kind = unpack("=I2", st, 29) & 0xf000
  if kind == 0x8000 or kind == 0x1000 then return nil end                    -- a file, a pipe
  if kind == 0x2000 then
    local major, minor = unpack("=I4I4", st, 129)
    if core.call("ioctl", fd, 0x80045430, { 4 }) then return "the other side of a terminal" end               -- TIOCGPTN: it types there
    if major == 1 and MEMORY_DEVICES[minor] or core.call("ioctl", fd, 0x5401, { 64 }) then return nil end     -- TCGETS: a terminal
    return "a device"
  end
  if kind ~= 0xc000 then return kind == 0x4000 and "a folder" or "no file" end
  local function option(name)
    local got, value = core.call("getsockopt", fd, 1, name, { 4 }, pack("=i4", 4))
    return got and unpack("=i4", value)
  end
  if standard and option(39) == AF_UNIX and (option(3) == SOCK_STREAM or option(3) == SOCK_SEQPACKET) and option(30) == 0       -- DOMAIN, TYPE, ACCEPTCONN
    and core.call("getpeername", fd, { 128 }, pack("=i4", 128)) then
    return nil
  end
  return "a socket"
end

-- ---- the processes ---------------------------------------------------------------------------------

local ALL = ("\255"):rep(8)

-- Never returns: what it raises is told to the keeper, in place of a stack that nobody reads.
local function child(status, body)
  local ok, e = pcall(body)
  if not ok then
    local text = type(e) == "table" and ("%s\0%s\0%d\n"):format(e.step, e.why, e.errno) or ("%s\0\0000\n"):format(tostring(e))
    core.call("write", status, text, #text)
  end
  core.call("exit_group", ok and 0 or 127)
end

-- Process 1: ends with the keeper, whose end of `life` then closes, and everything in the jail with it.
local function init(life)
  core.call("prctl", PR_SET_DUMPABLE, 0)
  for _, fd in ipairs(descriptors()) do
    if fd ~= life then core.call("close", fd) end
  end
  core.call("rt_sigaction", SIGCHLD, pack("=JJJI8", 1, 0, 0, 0), nil, 8)      -- SIG_IGN: orphans are not waited for
  core.call("capset", pack("=I4i4", 0x20080522, 0), ("\0"):rep(24))
  core.call("read", life, { 1 }, 1)
end

local function command(with, old, status, go, keepers)
  core.call("prctl", PR_SET_DUMPABLE, 0)
  for _, fd in ipairs(keepers) do core.call("close", fd) end     -- else neither `go` nor `life` would end with the keeper
  if not with.terminal then core.call("setsid") end
  mounts(with.mounts)
  must("the folder " .. with.folder, "chdir", with.folder)
  local n = must("the keeper", "read", go, { 1 }, 1)
  if n == 0 then return end
  for _, fd in ipairs(descriptors()) do
    if fd > 2 and M.unfit(fd) then core.call("close", fd) end        -- our own are closed by exec
  end
  for cap = 0, 63 do core.call("prctl", PR_CAPBSET_DROP, cap) end
  must("no_new_privs", "prctl", PR_SET_NO_NEW_PRIVS, 1)
  must("no capabilities", "capset", pack("=I4i4", 0x20080522, 0), ("\0"):rep(24))
  require("cli.machine").restore()
  -- From now on the filter judges each system call of this process and its children (seccomp(2)).
  must("the filter of system calls", "prctl", PR_SET_SECCOMP, 2, { pack("=I2c6j", #with.filter // 8, "", 0), at = { [8] = with.filter } })
  core.call("rt_sigprocmask", 2, old, nil, 8)
  local _, bad, errno = M.exec(with.argv, with.env)
  error({ step = "exec", why = bad, errno = errno }, 0)
end

local function maker(with, old, status, life, go, keepers)
  local u = with.user
  if u.groups then
    must("the user", "setgroups", #u.groups, #u.groups > 0 and pack("=" .. ("I4"):rep(#u.groups), table.unpack(u.groups)) or nil)
    must("the user", "setresgid", u.gid, u.gid, u.gid)
    must("the user", "setresuid", u.uid, u.uid, u.uid)
  end
  must("the user", "prctl", PR_SET_DUMPABLE, 1)       -- its own files in /proc are root's otherwise
  must("user namespaces", "unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC)
  for _, m in ipairs { { "setgroups", "deny" }, { "uid_map", ("%d %d 1"):format(u.uid, u.uid) }, { "gid_map", ("%d %d 1"):format(u.gid, u.gid) } } do
    local fd = must("user namespaces", "openat", AT_FDCWD, "/proc/self/" .. m[1], 1 | O_CLOEXEC)
    must("user namespaces", "write", fd, m[2], #m[2])
  end
  network()
  local list = {}
  for i, l in ipairs(with.listeners) do list[i] = listener(l) end
  local one = must("processes", "clone", CLONE_PARENT | SIGCHLD)
  if one == 0 then child(status, function() init(life) end) end
  local two = must("processes", "clone", CLONE_PARENT | SIGCHLD)
  if two == 0 then child(status, function() command(with, old, status, go, keepers) end) end
  local text = ("up %d %d %s\n"):format(one, two, table.concat(list, " "))
  must("the keeper", "write", status, text, #text)
end

local function pipe()
  local _, ends = must("pipes", "pipe2", { 8 }, O_CLOEXEC)
  return unpack("=i4i4", ends)
end

-- The server must see that listeners are of another network (SO_NETNS_COOKIE, Linux 5.14), and /sys be made read-only (5.12).
local function kernel()
  local s = must("processes", "socket", AF_INET, SOCK_STREAM | O_CLOEXEC, 0)
  local ok, why, errno = core.call("getsockopt", s, 1, 71, { 8 }, pack("=i4", 8))
  core.call("close", s)
  if not ok then error({ step = "Linux 5.14", why = why, errno = errno }, 0) end
end

--- Makes the jail; the command waits in it for M.go.
-- with = { user = { uid =, gid =, groups = list for root, else nil }, listeners = { { kind =, port = }… }, mounts = see above,
--   folder = where it works, terminal = has it one, filter = text, argv = list, env = list of NAME=VALUE }
-- -> { init = pid, command = pid, fds = list } | nil, { step =, why =, errno = }
function M.make(with)
  local old, ours = nil, {}
  local made, e = pcall(function()
    old = select(2, must("signals", "rt_sigprocmask", 2, ALL, { 8 }, 8))
    local jail = { old = old }
    kernel()
    local from, status = pipe()
    local life, hold = pipe()
    local go, start = pipe()
    ours = { from, hold, start }
    local pid = must("processes", "clone", CLONE_FILES | SIGCHLD)
    if pid == 0 then child(status, function() maker(with, old, status, life, go, { hold, start }) end) end
    must("processes", "wait4", pid)
    for _, fd in ipairs { status, life, go } do core.call("close", fd) end
    local n, text = must("processes", "read", from, { 4096 }, 4096)
    text = text:sub(1, n)
    jail.status, jail.hold, jail.start = from, hold, start
    local before, one, two, fds, behind = text:match("^(.-)up (%d+) (%d+) ([%d ]*)\n(.*)$")
    if not one then error(M.fault(text), 0) end
    jail.early = before .. behind
    jail.init, jail.command, jail.fds = math.tointeger(one), math.tointeger(two), {}
    for fd in fds:gmatch("%d+") do jail.fds[#jail.fds + 1] = math.tointeger(fd) end
    return jail
  end)
  if made then return e end
  -- Process 1, if there is one, ends with `hold`.
  for _, fd in ipairs(ours) do core.call("close", fd) end
  if old then core.call("rt_sigprocmask", 2, old, nil, 8) end
  return nil, e
end

--- Ends the jail, with all that is in it; signals come to this process again. Init ends when the command, which is this
-- process's own child, was waited for.
function M.over(jail)
  core.call("kill", jail.init, 9)
  core.call("wait4", jail.command)
  core.call("wait4", jail.init)
  for _, fd in ipairs { jail.hold, jail.status, table.unpack(jail.fds) } do core.call("close", fd) end
  core.call("rt_sigprocmask", 2, jail.old, nil, 8)
end

--- Can this user be jailed on this machine? true | nil, { step =, why =, errno = }
function M.trial(user, exe)
  local jail, fault = M.make { user = user, listeners = { { kind = "proxy", port = M.PORT } }, folder = "/", terminal = false,
    mounts = { covered = { { "/tmp", "mode=1777" }, { "/run", "mode=755" }, { "/dev", "mode=755" } }, kept = {}, hidden = {}, files = {}, over = {} },
    filter = M.filter { exe = exe, shares = true }, argv = { "true" }, env = { "PATH=/usr/bin:/bin" } }
  if not jail then return nil, fault end
  local ok
  ok, fault = M.go(jail)
  M.over(jail)
  return ok, fault
end

--- What a child of a jail wrote of its failure.
function M.fault(text)
  local step, why, errno = text:match("([^%z]*)%z([^%z]*)%z(%d+)\n")
  return { step = step or "processes", why = why or text:match("^[^%z\n]*"), errno = math.tointeger(errno) or 0 }
end

--- The command becomes its program: true | nil, { step =, why =, errno = }
function M.go(jail)
  core.call("write", jail.start, "g", 1)
  core.call("close", jail.start)
  local text = jail.early
  repeat
    local n, part = core.call("read", jail.status, { 4096 }, 4096)
    text = text .. (n and part:sub(1, n) or "")
  until not n or n == 0
  if text == "" then return true end
  return nil, M.fault(text)
end

return M
