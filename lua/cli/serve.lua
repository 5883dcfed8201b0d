--- sallyport serve
local db = require "cli.db"
local home = require "cli.home"
local records = require "records"
local report = require "cli.report"
local settings = require "cli.settings"

local DEMO_HOST = "echo.sallyport.test"   -- .test resolves nowhere (RFC 6761); the proxy answers it itself
local DEMO_TTL = 86400
local INHERITED_MAX = 16    -- NET_LISTENERS_MAX in proxy.c

local options = {}
for _, s in ipairs(records.setting_list) do
  options[#options + 1] = { name = s.name, arg = s.arg, many = s.many, whole = true, help = s.help }
end
options[#options + 1] = { name = "upstream-proxy-password", arg = "SOURCE", help = "of --upstream-proxy: @FILE, - (standard input) or env:NAME" }
options[#options + 1] = { name = "verbose", help = "what policies log(…) stands in the log, too" }
options[#options + 1] = { name = "demo", help = "a demo credential for echo.sallyport.test, and a line to paste" }

-- A demo that the operator disabled is not enabled by itself, and would refuse the line that is to be pasted.
local function in_force(kind, record)
  if record and record.enabled == false then
    report.fail(("the %s 'demo' is disabled"):format(kind), ("sallyport %s enable demo, or serve without --demo"):format(kind))
  end
end

--- The demo bundle holds one credential that is worth nothing; the demo agent holds that bundle alone.
local function ensure_demo(ctx)
  local time, secret, store = require "time", require "secret.core", require "store"
  local now = time.wall()
  local token
  db.change(function()
    local ops = require("cli.tokens").drop(nil, now)
    local bundle = db.peek("bundle", "demo", "the bundle 'demo'")
    in_force("bundle", bundle)
    if not bundle then
      ops[#ops + 1] = { op = "put", db = "bundle", key = "demo", version = 0,
        plain = { name = "demo", created = now } }
    end
    local cred = db.peek("credential", "demo", "the credential 'demo'")
    if cred and not cred.demo then
      report.fail("a credential of yours is called 'demo'", "serve without --demo, or remove that credential")
    elseif cred then
      in_force("credential", cred)
    else
      local value = "demo-" .. ctx.host.random_token(""):sub(1, 16)
      ops[#ops + 1] = { op = "put", db = "credential", key = "demo", version = 0,
        plain = { name = "demo", type = "bearer", hosts = { DEMO_HOST }, ports = { 443 }, bundles = { "demo" },
          enabled = true, demo = true, created = now, order = store.generation(), fields = {} },
        secrets = { ["f/token"] = secret.of(value) } }
    end
    local agent = db.peek("agent", "a/demo", "the agent 'demo'")
    if agent and not (#agent.bundles == 1 and agent.bundles[1] == "demo") then
      report.fail("an agent of yours is called 'demo'", "serve without --demo, or rename that agent")
    end
    in_force("agent", agent and not agent.revoked and agent)
    if not agent or agent.revoked then
      agent = { version = agent and agent.version or 0, series = require("cli.tokens").series(ctx.host) }
      ops[#ops + 1] = { op = "put", db = "agent", key = "a/demo", version = agent.version,
        plain = { name = "demo", bundles = { "demo" }, created = now, revoked = false, series = agent.series }, fresh = true }
    end
    local kept
    token, kept = require("cli.tokens").issue(ctx.host, "demo", "serve --demo", now + DEMO_TTL, now, agent.series)
    ops[#ops + 1] = kept
    return ops
  end)
  return token
end

-- What a client of this machine is pasted as: the proxy with its token, the CA, the host.
local demo_clients = {
  { "curl", [[
  curl -x %s \
      --cacert %s \
      https://%s/hello -H 'Authorization: Bearer placeholder'
]] },
  { "wget", [[
  https_proxy=%s wget -qO- \
      --ca-certificate %s \
      https://%s/hello --header 'Authorization: Bearer placeholder'
]] },
}

local function demo_banner(ctx, paths, token, at)
  for _, client in ipairs(demo_clients) do
    if home.has(ctx, client[1]) then
      return ([[

Paste this into another terminal. It needs no network: the proxy itself answers,
with the request as an upstream would have got it. The placeholder goes in, the
demo credential's value comes out.

%s
Then a first real API:

%s]]):format(client[2]:format(("http://demo:%s@%s"):format(token, at), require("env").quote(paths.ca), DEMO_HOST), home.next_steps(ctx))
    end
  end
  return ([[

This machine has no curl to show a request with (sudo apt install curl, then start
this again). What would become of one, in another terminal:

  %s explain --agent demo GET https://%s/hello

Then a first real API:

%s]]):format(home.command(ctx), DEMO_HOST, home.next_steps(ctx))
end

-- Under the store's lock, so that the reason is the server that runs, not its address.
local function lock(ctx)
  local ok, why = ctx.host.serve_lock(ctx.home)       -- it is open as long as the process, and those that it forks
  if not ok then
    report.fail(why == "running" and "a server already runs on " .. ctx.home
      or ("cannot lock %s/serve.lock: %s"):format(ctx.home, why))
  end
end

-- `list`: of listeners' texts; more: what they have in common; files: gets the paths of their sockets.
-- -> {"127.0.0.1:7080", "unix:/run/p.sock=claude", …} as bound, their descriptors
local function listen(ctx, list, flag, more, files)
  local bound, seen, fds = {}, {}, {}
  for _, text in ipairs(list) do
    local spec, where, why, fd = records.listener(text), nil, nil, nil
    for key, value in pairs(more or {}) do spec[key] = value end
    spec.gid = spec.group and (require("cli.log_place").group(ctx.host, spec.group)
      or report.fail(("cannot listen on %s: there is no group '%s' in /etc/group"):format(text, spec.group)))
    spec.mode = spec.mode or (spec.agent or spec.group) and 432 or 438   -- 0660, 0666: who connects is asked for his user
    if spec.fd and seen[spec.fd] then report.fail(("fd:%d is named twice"):format(spec.fd)) end
    where, why, fd = ctx.host.listen(spec)
    if not where then
      report.fail(("cannot listen on %s: %s"):format(text, why == "in_use" and "Address already in use" or why),
        spec.fd and "LISTEN_FDS counts listeners that were handed over, from descriptor 3: systemd's sockets are such" or
        spec.path and (why == "in_use" and "another server listens there, or a file that is no socket lies there: name another path"
          or "its folder must be there, and this user may write to it") or
        ("--%s ADDR:PORT names another, `sallyport set %s` for good; port 0 picks one"):format(flag, flag))
    end
    seen[spec.fd or -1] = true
    bound[#bound + 1] = where .. (spec.agent and "=" .. spec.agent or "")
    files[#files + 1] = spec.path
    fds[#bound] = fd
  end
  return bound, fds
end

-- Whether the operator's own certificate of a kind of listener ("listen", "gateway") can be used.
local function check_cert(all, kind)
  local cert, key = all[kind .. "_cert"], all[kind .. "_key"]
  if not cert ~= not key then report.fail(("%s-cert and %s-key go together"):format(kind, kind)) end
  local ok, why = not cert, nil
  if cert then ok, why = require("own_cert").read(cert, key) end
  if not ok then report.fail(("the certificate %s-cert cannot be used: %s"):format(kind, why)) end
end

-- Whether TLS to the proxy can be had as it is set.
local function check_tls(ctx, all)
  check_cert(all, "listen")
  for _, text in ipairs(not all.listen_cert and all.listen_tls or {}) do
    local l = records.listener(text)
    if not l.host and (l.address == "0.0.0.0" or l.address == "::") then
      ctx.note(("note: the certificate of %s names the address that a client dials; --listen-tls %s,name=HOST names it"):format(text, text))
    end
  end
end

-- Whether the door can be opened as it is set.
local function check_door(ctx, all)
  if not all.gateway[1] then return end
  if not all.public_url then
    report.fail("--gateway needs a public-url: how the world reaches the door", "sallyport set public-url https://box.example.org")
  end
  check_cert(all, "gateway")
  if not all.gateway_cert and all.public_url:find("^https:") then
    ctx.note("note: the door speaks plain HTTP, for reverse proxies at " .. table.concat(all.trusted_proxy, ", "))
  end
end

-- Whether the page can be served as it is set: beyond this machine over TLS alone, at the address that browsers ask for.
local function check_page(all)
  check_cert(all, "admin")
  for _, text in ipairs(all.admin) do
    local here = records.is_local(text)
    if not here and not all.admin_cert then
      report.fail(("--admin %s is reached from elsewhere, and would be read and changed on the way: it needs TLS"):format(text),
        "--admin-cert and --admin-key; or 127.0.0.1 and ssh -L")
    end
    if not here and not (all.admin_url or ""):find("^https:") then
      report.fail(("--admin %s needs an admin-url: how browsers reach it"):format(text), "sallyport set admin-url https://box.lan:7443")
    end
  end
  if all.admin_url and all.admin_url:find("^https:") ~= (all.admin_cert and 1) and all.admin[1] then
    report.fail("admin-url is https where there is an admin-cert, and http where there is none")
  end
end

-- The page's process is told of its listeners: those of --admin, and the socket at which it gets what its owner asks on the control
-- socket. Without --admin it is started on demand. -> JSON, "" where there is no listener; the socket's path
local function page_of(ctx, all, bound, fds, files)
  local list = report.array()
  for i, at in ipairs(bound) do list[i] = { fd = fds[i], at = at, tls = all.admin_cert ~= nil and at:sub(1, 5) ~= "unix:" or nil } end
  local path = ctx.home .. "/page"
  local at, why, where, fd = require("cli.control").address(path)     -- its folder stays open: workers go on to it
  -- control: no agent comes there, so that records name no listener for its sake
  if at then where, why, fd = ctx.host.listen { path = at, mode = 384, kind = "page", control = true } end
  if where then
    list[#list + 1], files[#files + 1] = { fd = fd, at = where }, path
  else
    ctx.note(("note: no page and API on the control socket, for there is no %s (%s)"):format(path, why))
  end
  return list[1] and report.json_line { listeners = list, url = all.admin_url, cert = all.admin_cert, key = all.admin_key,
    demand = not bound[1] and fd or nil } or "", where and at
end

-- The listeners that this process was started with (sd_listen_fds(3)) -> { 3, 4, … }
local function inherited(ctx)
  local n, pid = ctx.host.getenv("LISTEN_FDS"), ctx.host.getenv("LISTEN_PID")
  if not n or n == "" or tonumber(pid or "") ~= ctx.host.pid() then return {} end
  n = n:find("^%d%d?$") and tonumber(n)
  if not n or n > INHERITED_MAX then report.fail(("LISTEN_FDS is a number up to %d"):format(INHERITED_MAX)) end
  local out = {}
  for i = 1, n do out[i] = 2 + i end
  return out
end

-- What is to be listened on: those that were named; where nothing was, the inherited ones, else the default. An inherited
-- one that is not named stands beside the others.
local function wanted(ctx, list)
  local out, given, named = {}, {}, {}
  for _, fd in ipairs(inherited(ctx)) do given[fd] = true end
  for _, text in ipairs(list) do
    local fd = records.listener(text).fd
    if fd and not given[fd] then
      report.fail(("cannot listen on %s: no listener of that number was handed over"):format(text),
        "LISTEN_FDS and LISTEN_PID say how many there are: a socket unit of systemd sets them")
    end
    named[fd or -1] = true
    if fd or not next(given) or list ~= records.setting("listen").default then out[#out + 1] = text end
  end
  for fd = 3, 2 + INHERITED_MAX do
    if given[fd] and not named[fd] then out[#out + 1] = "fd:" .. fd end
  end
  return out
end

-- The control socket: where `run` of an agent's user hands its listeners over. Who connects is asked for his user.
local function open_control(ctx, path, files)
  path = path or require("cli.control").paths(ctx)[1]
  local at, why, where = require("cli.control").address(path)
  if at then where, why = ctx.host.listen { path = at, mode = 438, control = true } end
  files[#files + 1] = where and path
  if not where then
    ctx.note(("note: no control socket at %s (%s): `sallyport run` of other users, and jails, need it"):format(path, why))
  end
end

-- The password of --upstream-proxy for this run: sealed in the store, because workers and commands read it there.
local function keep_proxy(ctx, opt, flags)
  local proxy, key = require "cli.upstream_proxy", "run/upstream-proxy"
  local url, text = flags.upstream_proxy, opt.upstream_proxy_password
  if text and not url then report.usage("--upstream-proxy-password is of --upstream-proxy") end
  local password
  if url then
    local kept = not text and require("store").get("meta", "set/upstream-proxy")
    password = kept and kept.value == url and kept.secrets and kept.secrets.password
      or proxy.password(ctx, url, text and "password=" .. text, key, "--upstream-proxy")
  elseif not db.peek("meta", key, "the proxy of the last run") then
    return
  end
  db.change(function() return { url and proxy.write(key, url, password) or { op = "del", db = "meta", key = key } } end)
end

-- A key of before whose texts have ended goes, or it would open them again when the clock is set back. Its number stays: that of the
-- newest key is counted from it. No change of the configuration.
local function end_keys()
  local store, of, now = require "store", require("secret.core").of, require("time").wall()
  local keys, secrets = store.peek("meta", "keys"), {}
  for _, old in ipairs(keys and keys.old or {}) do
    if old.ends_at ~= 0 and old.ends_at <= now then
      secrets["texts/" .. old.key], old.ends_at = of(("\0"):rep(32) .. (">I8I8"):pack(old.key, 0)), 0
    end
  end
  if next(secrets) then store.write({ { op = "put", db = "meta", key = "keys", version = keys.version, keep = true, secrets = secrets, plain = keys } }) end
end

-- Questions to a person are of one run: those of the last are withdrawn, and answers "once" with them; counters
-- whose window is over go, too. -> this run's name
local function withdraw(ctx)
  db.change(function()
    local ops = {}
    for key, r in db.each("approval", "") do
      if not r or r.boot or r["until"] <= require("time").wall() then ops[#ops + 1] = { op = "del", db = "approval", key = key } end
    end
    for key, r in db.each("counter", "") do
      if not r or r.ends <= require("time").wall() then ops[#ops + 1] = { op = "del", db = "counter", key = key } end
    end
    return ops
  end)
  return ctx.host.sha256_hex((ctx.host.random_token(""))):sub(1, 16)
end

-- A proxy that clients of this environment would use, and this one does not.
local function tell_unused(ctx, all, at)
  local proxy = require "cli.upstream_proxy"
  local unused, advice = proxy.unused(ctx.host, all, at)
  if #unused == 0 then return nil end
  ctx.note(("note: %s, and is not used. %s"):format(table.concat(unused, "; "), proxy.advice(advice)))
  return unused
end

return {
  { words = "serve", max = 0, lines = true, args = "[options]", summary = "run the proxy", options = options,
    help = [[
Runs the proxy. Where there is no data directory it makes one. One line on standard error says that
it is ready: listening proxy=127.0.0.1:7080 workers=2
SIGTERM or Ctrl-C drains: what runs may finish, 30 seconds at most.

Options of the same name as a setting (sallyport set) count for this run only. Every other command
works on the same store beside the running proxy, and is in force at the next request.

examples:
  sallyport serve
  sallyport serve --listen 127.0.0.1:0 --workers 1
  sallyport serve --listen 10.0.0.5:7080 --upstream-ca /etc/ssl/corp-root.pem
  sallyport serve --listen 127.0.0.1:7080 --listen unix:/run/sallyport/proxy.sock --listen 127.0.0.1:7090=claude
  sallyport serve --connect-to api.example.com:443:127.0.0.1:8443 --allow-address 127.0.0.0/8
]],
    means = { port = "the port is part of --listen: --listen 127.0.0.1:7080",
      host = "the address is part of --listen: --listen 127.0.0.1:7080" },
    run = function(_, opt, ctx)
      local store = require "store"
      local flags = {}
      for _, s in ipairs(records.setting_list) do
        if opt[s.key] ~= nil then flags[s.key] = settings.read(ctx, s, opt[s.key], "--" .. s.name) end
      end
      if ctx.host.lock_held(ctx.home) then report.fail("a proxy already runs on " .. ctx.home) end
      local made, paths = home.make(ctx, flags.public)
      local all, refused = records.settings(flags)
      if refused[1] then   -- its default may allow more than the operator set
        report.fail(("the setting %s is refused: it was changed on the disk since it was written"):format(refused[1]),
          ("sallyport set %s VALUE, or sallyport set %s --default"):format(refused[1], refused[1]))
      end
      all.listen = wanted(ctx, all.listen)
      if all.helpers then
        local ok, why = ctx.host.helpers(all.helpers)
        if not ok then report.fail(("--helpers %s: %s"):format(all.helpers, why)) end
      end
      local log = require("cli.log_place").prepare(ctx, all)
      flags.verbose = opt.verbose or nil
      flags.log_path = log.path       -- for commands: they read it from the lock
      paths = paths or opt.demo and home.client_files(ctx)
      if all.upstream_proxy then require("cli.upstream_proxy").refuse_own(all.upstream_proxy, all.listen, "upstream-proxy") end
      keep_proxy(ctx, opt, flags)
      local token = opt.demo and ensure_demo(ctx)
      check_door(ctx, all)
      check_tls(ctx, all)
      check_page(all)
      flags.boot = withdraw(ctx)
      end_keys()
      store.close()
      lock(ctx)
      local said, shown, files = {}, { home = ctx.home, log = log.path }, {}
      local function open(name, word, more)
        local key = name:gsub("-", "_")
        local list, fds = listen(ctx, all[key], name, more, files)
        for _, l in ipairs(list) do
          said[#said + 1] = word .. "=" .. l
          for _, text in ipairs((word == "gateway" or word == "page") and {} or require("cli.listeners").risks(ctx.host, l, more ~= nil)) do
            ctx.note(("note: %s %s"):format(l, text))
          end
        end
        shown[key] = (list[1] or word == "proxy") and report.array(list) or nil
        return list, fds
      end
      local at = open("listen", "proxy")
      open("listen-tls", "tls", { tls = true })
      open("transparent", "transparent", { captures = true })
      open_control(ctx, all.control, files)
      local doors = open("gateway", "gateway", { kind = "gateway", tls = all.gateway_cert ~= nil })
      local own, fds = open("admin", "page", { kind = "page", mode = 384 })
      local page
      page, flags.page = page_of(ctx, all, own, fds, files)
      flags.unused_proxy = tell_unused(ctx, all, at)    -- for doctor, which has another environment
      flags.tproxy = all.transparent[1] and require("cli.doctor_doors").may_tproxy(ctx.host) or nil
      flags.boot_id = require("time").boot_id()         -- no worker reads files
      local overrides = report.json_line(flags)
      local banner = token and demo_banner(ctx, paths, token, at[1])
        or made and ("\nMade %s. Next:\n\n%s"):format(ctx.home, home.next_steps(ctx)) or ""
      if ctx.json then
        ctx.out(report.json_event(shown))
        io.stdout:flush()     -- before the workers are forked, or each would print it
      end
      local with = { log = report.json_line(log), page = page, at = table.concat(said, " "), banner = banner,
        note = table.concat(at, "\n") .. "\n" .. overrides, doors = doors[1] and all.gateway_workers or 0, made = report.array(files) }
      ctx.host.serve { home = ctx.home, workers = all.workers, doors = with.doors, overrides = overrides, with = report.json_line(with) }
    end },
}
