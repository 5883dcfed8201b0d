--- sallyport run: a command whose only way out is the proxy.
local control = require "cli.control_client"
local core = require "jail"
local jail = require "cli.jail"
local report = require "cli.report"

local PASSWD_MAX, ENVIRON_MAX, ROOTS_MAX = 16 << 20, 4 << 20, 8 << 20
local AGAIN_MS, AGAIN_MAX_MS = 500, 8000      -- between two looks for a server that has ended: twice as long each time
local AGAIN_WAIT_MS = 1000      -- for each of its answers then: signals wait meanwhile

-- ---- whose command it is --------------------------------------------------------------------------

-- A line of /etc/passwd: { name =, uid =, gid =, home =, shell = } | nil
local function entry(host, user)
  for line in (host.read_file("/etc/passwd", PASSWD_MAX) or ""):gmatch("[^\n]+") do
    local name, uid, gid, home, shell = line:match("^([^:]+):[^:]*:(%d+):(%d+):[^:]*:([^:]*):([^:]*)$")
    if name == user or uid == user then
      return { name = name, uid = math.tointeger(uid), gid = math.tointeger(gid), home = home, shell = shell }
    end
  end
end

-- The groups that list the user, and its own.
local function groups(host, u)
  local out = { u.gid }
  for line in (host.read_file("/etc/group", PASSWD_MAX) or ""):gmatch("[^\n]+") do
    local gid, members = line:match("^[^:]*:[^:]*:(%d+):(.*)$")
    if gid and ("," .. members .. ","):find("," .. u.name .. ",", 1, true) then out[#out + 1] = math.tointeger(gid) end
  end
  return out
end

local function user_of(opt, ctx)
  local host = ctx.host
  local me = host.uid()
  if me ~= 0 then
    local u = entry(host, tostring(me)) or {}
    if opt.user and opt.user ~= u.name and opt.user ~= tostring(me) then report.usage("--user is for root: others run what they run as themselves") end
    local gid = (host.read_file("/proc/self/status", 65536) or ""):match("\nGid:%s+%d+%s+(%d+)")
    return { uid = me, gid = math.tointeger(gid) }
  end
  if not opt.user then report.usage("root needs --user: whose files may the command touch?", "sallyport run --user bot -- CMD…") end
  local u = entry(host, opt.user)
  if not u then report.usage(("--user: there is no user '%s' in /etc/passwd"):format(report.clean(opt.user))) end
  if u.uid == 0 then report.usage("--user: root's command could leave the jail; name another user") end
  u.groups = groups(host, u)
  return u
end

-- ---- the environment -------------------------------------------------------------------------------

-- What names a way that is not there in the jail.
local ways = { "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO", "DISPLAY", "WAYLAND_DISPLAY",
  "XAUTHORITY", "TMUX", "TMUX_PANE", "STY", "DOCKER_HOST", "CONTAINER_HOST", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
  "JOURNAL_STREAM", "WSL_INTEROP", "PULSE_SERVER", "NODE_CHANNEL_FD", "VSCODE_IPC_HOOK_CLI", "VSCODE_GIT_IPC_HANDLE", "SALLYPORT_HOME" }

-- This process's variables as it was started, which the kernel shows to nobody while it cannot be traced.
local function inherited(host)
  local was = core.call("prctl", 3)             -- PR_GET_DUMPABLE
  core.call("prctl", 4, 1)
  local text = host.read_file("/proc/self/environ", ENVIRON_MAX) or ""
  core.call("prctl", 4, was)
  local list, seen = {}, {}
  for line in text:gmatch("[^%z]+") do
    local name, value = line:match("^([^=]+)=(.*)$")
    if name and not seen[name] then list[#list + 1], seen[name] = { name, value }, value end
  end
  return list, seen
end

-- The command's variables as a list of NAME=VALUE, and the names of the secrets that were taken out.
-- set = { name = value }; paths: Unix sockets that are let in; nil: no jail
local function environment(host, set, paths)
  local out, secrets, known, looks = {}, {}, require "cli.secret_names", require "cli.looks"
  local gone = {}
  for _, name in ipairs(ways) do gone[name] = true end
  local function names_one(value)
    for _, path in ipairs(paths or {}) do
      if value:find(path, 1, true) then return true end
    end
    return not paths
  end
  for _, v in ipairs(inherited(host)) do
    local name, value = v[1], v[2]
    if set[name] == nil and (not gone[name] or names_one(value)) then
      local session = name:find("SESSION$") or name:find("^XDG_")
      if value ~= "" and not gone[name] and (known[name] or name == "SALLYPORT_TOKEN" or looks.secret(value, { name = not session and name or nil, known = true })) then
        secrets[#secrets + 1] = name
      else
        out[#out + 1] = name .. "=" .. value
      end
    end
  end
  for name, value in pairs(set) do out[#out + 1] = name .. "=" .. value end
  table.sort(secrets)
  return out, secrets
end

-- ---- what the jail's files are ---------------------------------------------------------------------

local function within(path, dir) return dir == "/" or path == dir or path:sub(1, #dir + 1) == dir .. "/" end

-- Other ways to a folder: mounts that show it, or a part of it, elsewhere (mountinfo: proc(5)).
local function aliases(host, path)
  local list, of = {}, nil
  local function plain(s) return (s:gsub("\\(%d%d%d)", function(n) return string.char(tonumber(n, 8)) end)) end
  for line in (host.read_file("/proc/self/mountinfo", 4 << 20) or ""):gmatch("[^\n]+") do
    local device, root, at = line:match("^%d+ %d+ (%S+) (%S+) (%S+)")
    local m = device and { device = device, root = plain(root), at = plain(at) }
    list[#list + 1] = m
    if m and within(path, m.at) and (not of or #m.at >= #of.at) then of = m end
  end
  if not of then return {} end
  local function joined(a, b) return (a == "/" and "" or a) .. b end
  local inner, out = joined(of.root, path:sub(#(of.at == "/" and "" or of.at) + 1)), {}
  for _, m in ipairs(list) do
    if m.device == of.device and within(inner, m.root) then
      out[#out + 1] = joined(m.at, inner:sub(#(m.root == "/" and "" or m.root) + 1))
    elseif m.device == of.device and within(m.root, inner) then
      out[#out + 1] = m.at
    end
  end
  return out
end

-- Where the kernel shows itself a second time: processes, control groups, terminals and devices of outside.
local views = {}
for kind in ("proc sysfs cgroup cgroup2 devtmpfs devpts mqueue debugfs tracefs securityfs configfs binfmt_misc bpf"):gmatch("%S+") do views[kind] = true end

-- Mounts of such a kind but for /proc, /sys and /dev, which the jail has of its own.
local function elsewhere(host)
  local out = {}
  for line in (host.read_file("/proc/self/mountinfo", 4 << 20) or ""):gmatch("[^\n]+") do
    local at, kind = line:match("^%d+ %d+ %S+ %S+ (%S+) .- %- (%S+)")
    at = at and at:gsub("\\(%d%d%d)", function(n) return string.char(tonumber(n, 8)) end)
    if at and views[kind] and not (within(at, "/proc") or within(at, "/sys") or within(at, "/dev")) then out[#out + 1] = at end
  end
  return out
end

-- Puts a text in a file's place, link by link: where a link leads to what is fresh, the file is made there.
local function place(ctx, what, path, text, own)
  local host = ctx.host
  for _ = 1, 16 do
    local dir, name = path:match("^(.*)/([^/]+)$")
    path = (host.realpath(dir == "" and "/" or dir) or dir) .. "/" .. name
    path = path:gsub("^//", "/")
    for _, c in ipairs(what.covered) do
      if within(path, c[1]) then
        what.files[#what.files + 1] = { path, text }
        return
      end
    end
    local st = host.stat(path)
    if not st then return end
    if st.type ~= "link" then
      what.over[#what.over + 1] = { path, own }
      return
    end
    local n, to = core.call("readlinkat", -100, path, { 4096 }, 4096)
    if not n then return end
    to = to:sub(1, n)
    path = to:sub(1, 1) == "/" and to or path:match("^(.*/)") .. to
  end
end

-- The Unix sockets with a name in files that the jail would show (unix(7)), but for those that are let in. For where there is
-- one of them, Unix sockets can be made in the jail, and each that is there could be dialled.
local function sockets(host, what, paths)
  local out, seen = {}, {}
  for _, path in ipairs(paths) do seen[path] = true end
  for line in (host.read_file("/proc/net/unix", 16 << 20) or ""):gmatch("[^\n]+") do
    local path = line:match("^%x+: %x+ %x+ %x+ %x+ %x+ +%d+ (/.*)$")
    path = path and host.realpath(path)
    local hidden = not path or seen[path]
    local kept = false      -- a folder that comes back over what is covered
    for _, dir in ipairs(what.kept) do kept = kept or path and within(path, dir) end
    for _, c in ipairs(what.covered) do hidden = hidden or not kept and within(path, c[1]) end
    for _, dir in ipairs(what.hidden) do hidden = hidden or within(path, dir) end
    if not hidden then out[#out + 1], seen[path] = path, true end
  end
  return out
end

-- Java asks no variable for its roots. The files of those that are usual, and of the one that runs.
local function java_stores(host)
  local out, seen = {}, {}
  local list = { "/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts" }
  local home = host.getenv("JAVA_HOME")
  if home and home:sub(1, 1) == "/" then list[#list + 1] = home .. "/lib/security/cacerts" end
  for dir in (host.getenv("PATH") or ""):gmatch("/[^:]*") do
    local java = host.realpath(dir .. "/java")
    if java then list[#list + 1] = java:gsub("/bin/java$", "") .. "/lib/security/cacerts"; break end
  end
  for _, path in ipairs(list) do
    path = host.realpath(path)
    if path and not seen[path] then out[#out + 1], seen[path] = path, true end
  end
  return out
end

-- See cli.jail's mounts. capture: what the server said; cwd: where the command works; paths: Unix sockets to let in
local function files(ctx, user, capture, cwd, paths, runtime)
  local host = ctx.host
  local what = { covered = { { "/tmp", "mode=1777" }, { "/run", "mode=755" }, { "/dev", "mode=755" } }, kept = {}, hidden = {}, files = {}, over = {} }
  local function cover(path, options) what.covered[#what.covered + 1] = { path, options, true } end
  local own = host.stat("/var/run")
  if own and own.type == "dir" then cover("/var/run", "mode=755") end
  if runtime and not within(runtime, "/run") and not within(runtime, "/tmp") and host.stat(runtime) then cover(runtime, "mode=700") end
  local hidden = {}
  for _, home in ipairs { capture.home, ctx.home, (host.getenv("HOME") or "") .. "/.sallyport", user.home and user.home .. "/.sallyport" or "", "/var/lib/sallyport" } do
    home = host.realpath(home)
    local st = home and host.stat(home)
    if st and st.type == "dir" then
      for _, path in ipairs(aliases(host, home)) do
        if not hidden[path] then
          hidden[path] = true
          what.hidden[#what.hidden + 1] = path
          if within(cwd, path) then report.fail("this folder is hidden in the jail, for the proxy's files are in it", "work in another one") end
        end
      end
    end
  end
  for _, path in ipairs(elsewhere(host)) do what.hidden[#what.hidden + 1] = path end
  for _, path in ipairs { cwd, table.unpack(paths) } do
    for _, dir in ipairs { "/tmp", "/run", "/dev", "/var/run", runtime } do
      if path ~= dir and within(path, dir) then
        what.kept[#what.kept + 1] = path
        break
      end
    end
  end
  local function text(name, body, path)
    local file = jail.FOLDER .. "/" .. name
    what.files[#what.files + 1] = { file, body }
    if path then place(ctx, what, path, body, file) end
  end
  local roots_file = require("roots")()
  local roots = roots_file and host.read_file(roots_file, ROOTS_MAX) or ""
  if roots ~= "" and roots:sub(-1) ~= "\n" then roots = roots .. "\n" end
  text("ca.pem", capture.ca)
  text("bundle.pem", roots .. capture.ca, roots_file)
  for i, path in ipairs(java_stores(host)) do
    local was = host.read_file(path, ROOTS_MAX)
    if was then text(("cacerts%d"):format(i), require("cli.truststore").with(was, capture.ca, roots .. capture.ca), path) end
  end
  if #paths > 0 then
    text("no-socket", "")
    for _, path in ipairs(sockets(host, what, paths)) do what.over[#what.over + 1] = { path, jail.FOLDER .. "/no-socket", true } end
  end
  text("resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n", "/etc/resolv.conf")
  local name = (host.read_file("/proc/sys/kernel/hostname", 256) or ""):match("^[%w.-]+") or "localhost"
  text("hosts", ("127.0.0.1\tlocalhost %s\n::1\tlocalhost\n"):format(name), "/etc/hosts")
  local switch = host.read_file("/etc/nsswitch.conf", 65536)
  if switch then
    switch = ("\n" .. switch):gsub("\n%s*hosts:[^\n]*", ""):gsub("^\n", "") .. "\nhosts: files dns\n"
    text("nsswitch.conf", switch, "/etc/nsswitch.conf")
  end
  return what
end

-- ---- the keeper ------------------------------------------------------------------------------------

local SIGCONT, SIGCHLD, SIGKILL = 18, 17, 9
local STOPS = { [20] = true, [21] = true, [22] = true }
local IGNORED = { [28] = true, [23] = true }      -- SIGWINCH, SIGURG: the terminal's and descriptors', for whom they concern

local function mask(signal) return string.pack("<I8", 1 << (signal - 1)) end

-- Ends or stops this process by a signal, as the command was.
local function by_signal(signal)
  local can_wait = signal ~= SIGKILL and signal ~= 19
  if can_wait then core.call("rt_sigaction", signal, string.pack("=JJJI8", 0, 0, 0, 0), nil, 8) end
  -- Blocked still, it is one with the terminal's own, which may wait to be read: two would stop this process twice.
  core.call("kill", require("host").pid(), signal)
  if can_wait then core.call("rt_sigprocmask", 1, mask(signal), nil, 8) end      -- SIG_UNBLOCK
  core.call("rt_sigprocmask", 0, mask(signal), nil, 8)
end

-- What happens to the command is what happens to this process; what this process is told is told to the command.
-- again(): hands the listeners over once more -> descriptor | nil
local function keep(j, fd, terminal, again)
  local all = ("\255"):rep(8)
  local signals, pause = core.call("signalfd4", -1, all, 8, 0x80000), AGAIN_MS
  while true do
    local watched = string.pack("=i4i2i2", signals, 1, 0) .. (fd and string.pack("=i4i2i2", fd, 1, 0) or "")
    local n, got = core.call("ppoll", { watched }, fd and 2 or 1, not fd and string.pack("jj", pause // 1000, pause % 1000 * 1000000) or nil, nil, 8)
    if n == 0 then
      fd = again()
      pause = fd and AGAIN_MS or math.min(2 * pause, AGAIN_MAX_MS)
    end
    if n and n > 0 and fd and string.unpack("=i2", got, 15) ~= 0 then
      core.call("close", fd)
      fd = nil
    end
    if n and n > 0 and string.unpack("=i2", got, 7) ~= 0 then
      local _, info = core.call("read", signals, { 128 }, 128)
      local signal, _, code = string.unpack("=I4i4i4", info)
      if signal == SIGCHLD then
        while true do
          local pid, status = core.call("wait4", -1, { 4 }, 1 | 2, nil)       -- WNOHANG, WUNTRACED
          if not pid or pid == 0 then break end
          status = string.unpack("=I4", status)
          if pid == j.command and status & 0xff == 0x7f then
            by_signal(status >> 8)
          elseif pid == j.command then
            return status
          end
        end
      elseif not (terminal and (code > 0 or STOPS[signal])) and not IGNORED[signal] then
        core.call("kill", j.command, signal)
      end
    end
  end
end

-- The program could not be started: as shells say it.
local function not_run(ctx, args, fault)
  local absent = fault.errno == 2 or fault.errno == 20
  if fault.errno == 13 and not args[1]:find("/") then      -- a folder of PATH that this user may not enter says so for all that is in it
    absent = true
    for dir in (ctx.host.getenv("PATH") or ""):gmatch("[^:]+") do
      if ctx.host.stat(dir .. "/" .. args[1], true) then absent = false end
    end
  end
  ctx.note(("sallyport: %s: %s"):format(report.clean(args[1]), absent and not args[1]:find("/") and "command not found" or fault.why))
  return absent and 127 or 126
end

-- The environment, and a note of what was taken out of it.
local function told(ctx, env, secrets)
  if #secrets > 0 then ctx.note("note: taken out of the command's environment: " .. report.clean(table.concat(secrets, ", "))) end
  return env
end

-- Why there is no jail here, and what to do.
local function explained(fault)
  local why = ("%s: %s"):format(fault.step, fault.why)
  if fault.step == "user namespaces" then
    return ("this machine lets nobody make user namespaces (%s)"):format(why),
      "as root: sysctl kernel.unprivileged_userns_clone=1 or user.max_user_namespaces=10000; --allow-net goes on without a jail"
  end
  if fault.step == "Linux 5.14" then
    return ("this kernel is too old for a jail (%s is needed: it cannot say of which network a socket is)"):format(fault.step),
      "a newer kernel; --allow-net goes on without a jail"
  end
  if fault.errno == 1 or fault.errno == 13 then
    return ("a user namespace has no capabilities on this machine (%s): AppArmor or a container takes them"):format(why),
      "Ubuntu: an AppArmor profile with `userns,` for sallyport, or sysctl kernel.apparmor_restrict_unprivileged_userns=0; --allow-net goes on without a jail"
  end
  return ("no jail could be made (%s)"):format(why), "--allow-net goes on without one"
end

-- Where the store is this user's and has one agent, that one. The key is not read: it would be in this process's memory.
local function only_agent(ctx)
  local store, names = require "store", {}
  local opened = store.open(ctx.home, { keyless = true })
  if opened then
    for key, record in require("store").stored("agent", "a/") do
      if record and not record.revoked and record.enabled ~= false and record.kind ~= "tenant" then names[#names + 1] = key:sub(3) end
    end
    store.close()
  end
  if #names == 1 then return names[1] end
  if not opened then return "~" end      -- the server knows whose this user is
  report.usage("--agent is missing: as whom does the command run?", #names > 1 and "one of: " .. report.several(names) or "sallyport agent list")
end

-- The command without a jail: the environment alone. Never returns where it becomes the program.
local function unjailed(args, opt, ctx, user)
  local held = require("cli.env").list({ agent = opt.agent or only_agent(ctx), made_for = "run" }, ctx)
  require("store").close()
  local set = user.groups and { HOME = user.home, USER = user.name, LOGNAME = user.name, SHELL = user.shell } or {}
  for _, v in ipairs(held) do set[v[1]] = v[2] end
  local env = told(ctx, environment(ctx.host, set, nil))
  if user.groups then
    local list = string.pack("=" .. ("I4"):rep(#user.groups), table.unpack(user.groups))
    if not (core.call("setgroups", #user.groups, list) and core.call("setresgid", user.gid, user.gid, user.gid)
      and core.call("setresuid", user.uid, user.uid, user.uid)) then report.fail("cannot become " .. user.name) end
  end
  require("cli.machine").restore()
  local _, why, errno = jail.exec(args, env)
  return not_run(ctx, args, { why = why, errno = errno })
end

local function run(args, opt, ctx)
  local host = ctx.host
  local user = user_of(opt, ctx)
  for fd = 0, 2 do
    local bad = jail.unfit(fd, true)
    if bad then report.fail(("descriptor %d is %s, through which the command could leave the jail"):format(fd, bad), "… | cat, or a file") end
  end
  local cwd = host.realpath(".")
  if not cwd then report.fail("the folder in which this is has gone", "cd") end
  local paths = {}
  for i, path in ipairs(opt.allow_unix or {}) do
    local real = host.realpath(path)
    local st = real and host.stat(real)
    paths[i] = st and st.type == "socket" and real or report.fail(("--allow-unix %s: there is no such socket"):format(report.clean(path)))
  end
  local at = control.path(ctx)
  if not at then report.fail("no server runs here: there is no control socket in " .. ctx.home, "sallyport serve, or --home DIR") end
  local name = opt.agent or only_agent(ctx)
  local function ask(fd, method, what, value, fds, wait)
    return control.request(fd, method, ("/api/v1/agents/%s/%s"):format(name, what), value, fds, wait)
  end
  local fd, why = control.open(at)
  if not fd then report.fail(("cannot use %s: %s"):format(at, why)) end
  local capture, hint
  capture, why, hint = ask(fd, "GET", ("capture?port=%d&ca=%s/ca.pem&bundle=%s/bundle.pem"):format(jail.PORT, jail.FOLDER, jail.FOLDER))
  if capture and type(capture.home) ~= "string" then report.fail("the server does not say where its data directory is, which must be hidden") end
  if not capture then
    report.fail(("the server does not let %s run: %s"):format(name == "~" and "this user" or "agent " .. report.clean(name), report.clean(why)), hint and report.clean(hint))
  end
  local listeners = { { kind = "proxy", port = jail.PORT }, { kind = "dns-udp", port = 53 }, { kind = "dns-tcp", port = 53 } }
  for _, port in ipairs(capture.ports) do
    if port ~= jail.PORT and port ~= 53 then listeners[#listeners + 1] = { kind = "transparent", port = port } end
  end
  local kinds = {}
  for _, text in ipairs(capture.notes or {}) do ctx.note(text) end
  for i, l in ipairs(listeners) do kinds[i] = { kind = l.kind, port = l.kind == "transparent" and l.port or nil } end

  local set = {}
  for k, v in pairs(capture.env) do set[k] = v end
  local runtime = host.getenv("XDG_RUNTIME_DIR")
  if user.groups then
    set.HOME, set.USER, set.LOGNAME, set.SHELL, runtime = user.home, user.name, user.name, user.shell, nil
  end
  runtime = runtime and host.realpath(runtime) or ("/run/user/%d"):format(user.uid)
  set.XDG_RUNTIME_DIR = runtime
  local env, secrets = environment(host, set, paths)

  local what = files(ctx, user, capture, cwd, paths, runtime)
  if within(runtime, "/run") or within(runtime, "/tmp") then what.files[#what.files + 1] = { runtime .. "/.keep", "" } end
  local tty, terminal = core.call("openat", -100, "/dev/tty", 2 | 0x80000 | 0x100), false
  terminal = tty ~= nil
  for n = 0, 2 do
    if host.isatty(n) then what.tty = what.tty or host.realpath("/proc/self/fd/" .. n) end
  end
  local filter = jail.filter { exe = host.arg0, unix = #paths > 0, shares = terminal }
  local j, fault = jail.make { user = user, listeners = listeners, mounts = what, folder = cwd, terminal = terminal, filter = filter,
    argv = args, env = env }
  local function without(why_not)
    local text, advice = explained(why_not)
    if not opt.allow_net then report.fail(text, advice) end
    if j then
      core.call("close", fd)
      jail.over(j)
    end
    ctx.note(("note: %s: the command is not in a jail, and may go past the proxy"):format(text))
    return unjailed(args, opt, ctx, user)
  end
  if not j then return without(fault) end
  local function hand(to, wait) return ask(to, "POST", "listeners", { listeners = kinds }, j.fds, wait) end
  local ok
  ok, why = hand(fd)
  if not ok then report.fail("the server does not take the jail's listeners: " .. report.clean(why)) end
  told(ctx, env, secrets)
  ok, fault = jail.go(j)
  if not ok then
    if fault.step == "exec" then return not_run(ctx, args, fault) end
    return without(fault)
  end
  local status = keep(j, fd, terminal, function()
    local to = control.open(at, AGAIN_WAIT_MS)
    if to and not hand(to, AGAIN_WAIT_MS) then
      core.call("close", to)
      to = nil
    end
    return to
  end)
  jail.over(j)
  if tty then
    core.call("rt_sigprocmask", 0, ("\255"):rep(8), nil, 8)       -- SIGTTOU: this process may be in the background here
    local own, _, group = core.call("getpgid", 0), core.call("ioctl", tty, 0x540f, { 4 })        -- TIOCGPGRP
    group = group and string.unpack("=i4", group)
    -- A shell of the jail's has left the terminal to a group that has ended; what runs in the foreground keeps it.
    local _, _, errno = core.call("kill", group and -group or own, 0)
    if errno == 3 then core.call("ioctl", tty, 0x5410, string.pack("=i4", own)) end
    core.call("rt_sigprocmask", 2, j.old, nil, 8)
  end
  if status & 0x7f == 0 then return status >> 8 & 0xff end
  by_signal(status & 0x7f)
  return 128 + (status & 0x7f)
end

return {
  explained = explained,
  { words = "run", args = "[--agent A] -- CMD …", min = 1, raw = true, as_root = true, summary = "a command whose only way out is the proxy",
    options = {
      { name = "agent", arg = "AGENT", help = "as whom its requests are judged" },
      { name = "user", arg = "USER", help = "for root, who must: the user who runs the command" },
      { name = "allow-unix", arg = "PATH", many = true, whole = true, help = "a Unix socket that it may use" },
      { name = "allow-net", help = "where this machine can make no jail: go on, with the environment alone" },
    },
    help = [[
Runs a command in a jail: a network, processes, /tmp, /run and /dev of its own, no Unix sockets, no other namespaces, no
capabilities. All that it sends comes to the proxy as the agent, without a token, with proxy variables or without: names
that an entry allows lead to it. It works in this folder, with your files, signals and terminal, and its exit status is this
command's. Known secrets are taken out of its environment, and named. A server must run. `sallyport help jail` says more.

examples:
  sallyport run --agent claude -- claude
  sallyport run --agent ci -- make test
  sudo sallyport run --agent bot --user bot -- python3 job.py
  sallyport run --agent a --allow-unix ~/.local/share/db.sock -- psql
]], run = run },
}
