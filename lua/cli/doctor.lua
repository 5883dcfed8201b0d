--- sallyport doctor: what is not as it should be on this machine.
local db = require "cli.db"
local doors = require "cli.doctor_doors"
local home = require "cli.home"
local page = require "cli.page"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"

local ROOM_MIN = 64 << 20         -- the store's own growth and a log; below it writes may begin to fail
local MEMLOCK_MIN = 2 << 20       -- some hundred secrets and what is in flight
local CA_SOON = 90 * 86400
local BESIDE_MIN = 60             -- columns of a terminal below which a text stands under its check, not beside it
local REMOVE_MAX = 256            -- records in one commit

-- Each check answers a level, a sentence, and where something is to be done, what.
local OK, WARN, BAD = "ok", "warn", "bad"

local function octal(n) return ("%03o"):format(n) end

-- As /etc/passwd has it; a user of another directory is named by the number.
local function user_name(host, uid)
  local users = host.read_file("/etc/passwd", 1 << 20) or ""
  return ("\n" .. users):match("\n([^:\n]+):[^:\n]*:" .. uid .. ":") or uid
end

local function path_check(host, path, mode, kind)
  local s, why = host.stat(path)
  if not s then return why == "absent" and BAD or WARN,
    ("%s: %s"):format(path, why == "absent" and "is missing" or why) end
  if s.type ~= kind then return BAD, ("%s is a %s, not a %s"):format(path, s.type, kind) end
  if s.uid ~= host.uid() then
    return BAD, ("%s belongs to %s"):format(path, user_name(host, s.uid)), "chown it to the user who serves"
  end
  if s.mode & ~mode & tonumber("777", 8) ~= 0 then
    return BAD, ("%s has mode %s"):format(path, octal(s.mode)), ("chmod %s %s"):format(octal(mode), path)
  end
  return OK, ("%s, mode %s"):format(path, octal(s.mode))
end

-- Changes of the data key: one that was cut off, and what they left for a time.
local function data_key(ctx, say, now)
  local keys, ends = require("store").peek("meta", "keys"), 0
  if require("cli.archive").rekey_left(ctx.home) and not ctx.host.lock_held(ctx.home) then
    say("data key", WARN, "a change of it was cut off: the store is whole, under the old one or the new",
      "sallyport store rekey removes what it left, and changes it")
  end
  for _, old in ipairs(keys and keys.old or {}) do ends = math.max(ends, old.ends_at) end
  if keys then
    say("data key", OK, ("changed %d time%s; %s"):format(keys.changes, keys.changes == 1 and "" or "s",
      ends > now and "texts that were sealed before open until " .. report.time(ends) or "texts that were sealed before open no more"))
  end
end

local function files(ctx, say)
  local host, h = ctx.host, ctx.home
  local level, text, fix = path_check(host, h, tonumber("700", 8), "dir")
  say("data directory", level, text, fix)
  local is = host.stat(h)
  if not is or is.type ~= "dir" then return end
  say("key file", path_check(host, h .. "/key", tonumber("600", 8), "file"))
  local bad = false
  for _, name in ipairs(require("cli.files").names(h .. "/store")) do
    local level, text, fix = path_check(host, ("%s/store/%s"):format(h, name), tonumber("600", 8), "file")
    if level ~= OK then
      bad = true
      say("store files", level, text, fix)
    end
  end
  if not bad then say("store files", OK, h .. "/store") end
  local free = host.disk(h)
  if free then
    say("disk", free < ROOM_MIN and BAD or OK, ("%d MiB are free"):format(free >> 20),
      free < ROOM_MIN and "free some: a refresh refuses to begin where its answer has no room" or nil)
  end
end

-- Why a record is refused.
local refusals = {
  changed = "it is damaged", gone = "it was removed on the disk", older = "an older one was put in its place on the disk",
  unknown = "it was put there on the disk: it had been removed, or never was", unsure = "its part of the table of records was changed",
}

-- All records that are refused: { { db, key, why, gone }… }, how many there are, and how many parts of the table were changed.
local function look_through()
  local s = require "store"
  local out, seen = {}, 0
  for _, name in ipairs { "meta", "policy", "credential", "state", "bundle", "agent", "user", "client", "gateway", "grant", "token" } do
    for key, record, why in s.records(name, "") do
      if why ~= "gone" then seen = seen + 1 end
      if record and record.sealed and #record.sealed > 0 then
        local _, code = s.get(name, key)
        why = code == "damaged" and "changed" or nil
      end
      if why then out[#out + 1] = { name, key, refusals[why], why == "gone" } end
    end
  end
  local _, parts = s.listed("meta")     -- nil, "locked" without the key
  return out, seen, math.type(parts) and parts or 0
end

local function tell(say, check, list, what)
  for _, r in ipairs(list) do say(check, WARN, ("%s/%s: %s; %s"):format(r[1], r[2], r[3], what(r))) end
end

--- What lies on the disk is taken for what was written last, while no server runs: it would serve what it knows to be put back.
local function accept(ctx, say)
  local s = require "store"
  local known, code, fault = s.open(ctx.home, {})
  if not known and code ~= "damaged" then db.not_open(ctx.home, code, fault) end
  local list = known and look_through() or {}
  local changes = list[1] and {} or { { record = "all that was refused", did = "accepted" } }
  for i, r in ipairs(list) do changes[i] = { record = report.clean(r[1] .. "/" .. r[2]), did = "accepted" } end
  local ok
  ok, code, fault = require("cli.archive").accept(ctx.home)
  if not ok and code == "running" then report.fail("a server runs on " .. ctx.home, "stop it first") end
  if ok then ok, code, fault = s.open(ctx.home, {}) end
  if not ok then db.not_open(ctx.home, code, fault) end
  require("changes").record(changes)
  tell(say, "accepted", list, function(r)
    if r[4] then return "from now on it does not exist" end
    return s.peek(r[1], r[2]) and "from now on that is as it should be" or "it stays refused"
  end)
  if not known then
    say("accepted", WARN, "all records: nobody knows which of them were put back",
      "look through what `agent list`, `credential list` and the other lists show")
  end
end

--- What is refused is removed, and so exists no longer.
local function remove(ctx, say)
  db.open(ctx)
  local list = look_through()
  for from = 1, #list, REMOVE_MAX do
    db.change(function()
      local ops = {}
      for i = from, math.min(from + REMOVE_MAX - 1, #list) do
        ops[#ops + 1] = { op = "del", db = list[i][1], key = list[i][2] }
      end
      return ops
    end)
  end
  tell(say, "removed", list, function(r) return r[1] == "policy" and "removed: what comes with sallyport counts" or "removed" end)
end

local function store(ctx, say)
  local s = require "store"
  local ok, code, fault = s.open(ctx.home, {})
  if not ok then
    say("store", BAD, db.why(ctx.home, code, fault), db.hint(code))
    ok = s.open(ctx.home, { keyless = true })   -- what can be read without the key is looked at all the same
    if not ok then return false end
  end
  ctx.opened = true
  local list, seen, parts = look_through()
  if #list == 0 then say("records", OK, ("%d, all as they were written"):format(seen)) end
  for _, r in ipairs(list) do
    say("records", BAD, ("%s/%s is refused: %s"):format(r[1], r[2], r[3]),
      "make it anew or restore a backup; sallyport doctor --remove removes all that is refused")
  end
  if parts > 0 then
    say("records", BAD, ("the table of records was changed in %d of its parts: what these do not list is refused"):format(parts),
      "restore a backup; or, if all records are as you want them: sallyport doctor --accept")
  end
  return true
end

local function certificates(_, say, now)
  local ca = require("store").peek("meta", "ca")
  if not ca then
    say("CA", BAD, "there is none", "sallyport init")
    return
  end
  local left = ca.not_after - now
  say("CA", left < 0 and BAD or left < CA_SOON and WARN or OK,
    left < 0 and "has expired: no client accepts it" or ("valid until %s"):format(report.time(ca.not_after)),
    left < CA_SOON and "make a new data directory and give its CA to the clients" or nil)
end

-- Where it lies, who may read it, and what an earlier version left.
local function request_log(ctx, say)
  local host, place = ctx.host, require "cli.log_place"
  local all = records.settings(nil)
  local path, group = place.current(ctx), all.log_group and place.group(ctx.host, all.log_group)
  local fine, mode = true, tonumber(group and "640" or "600", 8)
  local function wrong(level, text, fix)
    if level ~= OK then fine = false; say("request log", level, text, fix) end
  end
  if not host.lock_held(ctx.home) and all.log ~= "memory" then
    local ok, why, hint = place.check(ctx, path)
    if not ok then wrong(BAD, why, hint or "sallyport set log-file FILE") end
  end
  for _, ending in ipairs { "", ".0", ".1" } do
    if host.stat(path .. ending) then wrong(path_check(host, path .. ending, mode, "file")) end
  end
  if all.log_group and not group then wrong(BAD, ("there is no group '%s'"):format(all.log_group), "sallyport set log-group GROUP") end
  local closed = group and place.closed_to(host, path, group)
  if closed then
    wrong(WARN, ("the group %s cannot enter %s, so not read the log"):format(all.log_group, closed),
      "sallyport set log-file /var/log/sallyport/requests.jsonl, in a folder of that group, mode 750")
  end
  local free = host.disk(path:match("^(.*)/"))
  if free and free < ROOM_MIN then
    wrong(BAD, ("%d MiB are free where it lies: records are lost once there is no room"):format(free >> 20),
      all.log == "memory" and "free some in /dev/shm" or "free some, or: sallyport set log-file FILE on another disk")
  end
  if fine then say("request log", OK, path) end
  local before = ctx.home .. "/log/data.mdb"
  if host.stat(before) then
    say("request log", OK, before .. " holds the records of an earlier version, which this one does not read",
      "remove that folder's *.mdb files when nobody needs them")
  end
end

-- Of credentials: their own certificates, and the roots they are trusted by.
local function credential_certificates(_, say, now)
  for name, record in db.each("credential", "") do
    for _, t in ipairs(record and require("cli.tls").troubles(record, now) or {}) do
      say("credential TLS", t[2]:find("^expired") and BAD or WARN, ("%s: %s %s"):format(name, t[1], t[2]),
        ("sallyport credential set %s %s=@FILE%s"):format(name, t[1], t[1] == "client_cert" and " client_key=@FILE" or ""))
    end
    if record and record.tls then
      say("credential TLS", WARN, name .. ": tls=legacy takes its servers' CN for a name, and CBC ciphers",
        ("once they are renewed: sallyport credential set %s tls=strict"):format(name))
    end
  end
  for _, d in db.each("bundle", "") do
    if d and d.tls then
      say("domain TLS", WARN, ("%s of '%s': tls=legacy takes its CN for a name, and CBC ciphers"):format(d.host, d.bundle),
        ("once it is renewed: sallyport domain add %s %s, with its other options and without --tls"):format(d.bundle, d.host))
    end
  end
end

local function client_files(ctx, say)
  local dir = home.public(ctx)
  local s = dir and ctx.host.stat(dir)
  if not s then
    say("client files", WARN, (dir or "the folder for clients") .. " is missing", "sallyport ca writes it again")
    return
  end
  if s.mode & tonumber("055", 8) ~= tonumber("055", 8) or s.mode & tonumber("022", 8) ~= 0 then
    say("client files", WARN, ("%s has mode %s"):format(dir, octal(s.mode)), "chmod 755 " .. dir)
    return
  end
  -- Agents of other users must be able to walk there.
  local shut = home.shut(ctx, dir .. "/")
  if shut then
    say("client files", WARN, ("other users cannot enter %s, so not read %s"):format(shut, dir),
      "fine where agents get the CA from http://PROXY/ca.pem; else: sallyport set public DIR, a folder that they can enter")
    return
  end
  say("client files", OK, dir)
end

local function machine(ctx, say, now)
  local host = ctx.host
  if host.locked() then
    say("locked memory", OK, "secrets cannot be swapped out")
  else
    local limit = math.tointeger(tonumber((host.read_file("/proc/self/limits", 65536) or ""):match("Max locked memory%s+(%d+)")))
    say("locked memory", WARN, limit and limit < MEMLOCK_MIN
      and ("the limit is %d KiB, so secrets may reach the swap"):format(limit >> 10)
      or "memory cannot be locked, so secrets may reach the swap",
      "raise it: LimitMEMLOCK=64M in a systemd unit, or ulimit -l; or use no swap, or an encrypted one")
  end
  if now < (host.build_time or 0) then
    say("clock", BAD, "it is before this program was built: upstream TLS answers clock_unset", "set the clock")
  elseif require("skew").report(now) then
    say("clock", WARN, report.clean(require("skew").report(now)), "set it (timedatectl set-ntp true): signed requests are refused")
  else
    say("clock", OK, report.time(now))
  end
  local pattern = host.read_file("/proc/sys/kernel/core_pattern", 4096)
  local limits = host.read_file("/proc/self/limits", 65536) or ""
  local core = limits:match("Max core file size%s+(%S+)")
  if core == "0" or (pattern and pattern:sub(1, 1) ~= "|" and core == "0") then
    say("core dumps", OK, "off")
  else
    say("core dumps", WARN, "this process may dump core; what is locked is left out of it, requests are not",
      "ulimit -c 0, or LimitCORE=0 in a systemd unit")
  end
end

-- Of the proxy that runs, or that would.
local function listeners(ctx, say)
  local running, open = home.running(ctx), nil
  local all = records.settings(running and running.flags)
  local function look(l, hidden)
    for _, text in ipairs(require("cli.listeners").risks(ctx.host, l, hidden)) do
      open = true
      local what, more = text:match("^(.-)([;:] .*)$")
      say("listener", WARN, l .. " " .. (what or text), more and more:find("tokens") and
        "tokens travel to it in the clear: keep it on a network of the agents alone, or listen-tls"
        or "a Unix socket with a mode (unix:PATH,mode=0660,group=NAME) keeps others out; sallyport help doors")
    end
    local agent = (records.listener(l) or {}).agent
    local kept = agent and require("store").peek("agent", "a/" .. agent)
    if agent and (not kept or kept.revoked or kept.kind == "tenant") then
      open = true
      say("listener", WARN, ("%s is for an agent that is not there"):format(l), ("sallyport agent add %s"):format(agent))
    elseif agent and kept.enabled == false then
      open = true
      say("listener", WARN, ("%s is for an agent that is disabled"):format(l), ("sallyport agent enable %s"):format(agent))
    end
  end
  for _, l in ipairs(running and running.listen or all.listen) do look(l, false) end
  for _, list in ipairs { all.listen_tls, all.transparent } do
    for _, l in ipairs(list) do look(l, true) end
  end
  for range, agent in pairs((require("store").peek("agent", require("doors").KEY) or {}).from or {}) do
    local cidr = range:find("/", 1, true)
    if range == "lo" or cidr and (require("addr").within("127.0.0.1", range) or require("addr").within("::1", range)) then
      open = true
      say("listener", WARN, ("every program of this machine that comes by loopback is agent %s without a token (%s)"):format(agent, range),
        ("sallyport agent set %s --from none, or the range of its own network"):format(agent))
    end
  end
  if not open then say("listener", OK, "no token comes from other machines in the clear") end
  if #all.allow_address > 0 then
    say("address guard", WARN, "allow-address opens it for every host", (#records.settings(nil).allow_address > 0
      and "sallyport set allow-address --default" or "serve without --allow-address") .. "; --address on the one credential does it")
  end
end

-- Of the environment of the proxy that runs, or of this one.
local function upstream_proxy(ctx, say)
  local proxy, running = require "cli.upstream_proxy", home.running(ctx)
  local all = records.settings(running and running.flags)
  local unused, advice = proxy.unused(ctx.host, all, running and running.listen or all.listen)
  if running then unused = running.flags and running.flags.unused_proxy or {} end
  if all.upstream_proxy then
    local kept = require("store").peek("meta", all.upstream_proxy_at)
    say("upstream proxy", OK, ("%s%s"):format(all.upstream_proxy, kept and kept.sealed and #kept.sealed > 0 and ", with a password" or ""))
  end
  for _, text in ipairs(unused) do
    say("upstream proxy", WARN, text .. ", and is not used", proxy.advice(advice))
  end
end

local function without(why)
  return why:find("static", 1, true) and "use a build that is not static" or "install Debian's libssl3"
end

-- The engines of TLS towards upstreams: this process loads OpenSSL as a worker would.
local function upstream_tls(ctx, say)
  local running = home.running(ctx)
  local set, version, why = records.settings(running and running.flags).upstream_tls, ctx.host.openssl()
  if set == "bearssl" then
    say("upstream TLS", OK, "BearSSL, TLS 1.2 alone (upstream-tls bearssl)")
  elseif version then
    say("upstream TLS", OK, set == "openssl" and ("OpenSSL %s (upstream-tls openssl)"):format(version)
      or ("BearSSL; OpenSSL %s where a server wants TLS 1.3 or keys that BearSSL does not know"):format(version))
  else
    say("upstream TLS", set == "openssl" and BAD or WARN, (set == "openssl" and "no upstream can be reached over TLS: %s"
      or "BearSSL, TLS 1.2 alone: %s"):format(why), without(why) .. (set == "openssl" and ", or sallyport set upstream-tls auto" or ""))
  end
end

local function agent_tls(ctx, say)
  local running = home.running(ctx)
  local version, why = ctx.host.openssl()
  if records.settings(running and running.flags).agent_tls == "bearssl" then
    say("agents' TLS", OK, "BearSSL, TLS 1.2")
  elseif version then
    say("agents' TLS", OK, ("OpenSSL %s, TLS 1.3 and 1.2 (agent-tls openssl)"):format(version))
  else
    say("agents' TLS", WARN, "BearSSL, TLS 1.2, though agent-tls is openssl: " .. why, without(why) .. ", or sallyport set agent-tls bearssl")
  end
end

local function policies(_, say)
  local edited = {}
  for _, p in ipairs(require("cli.policy_versions").list(true)) do
    if p.why or p.status == "damaged" then
      edited[#edited + 1] = p.name
      say("policies", BAD, ("%s is refused: %s"):format(p.name, p.why or p.status),
        (p.status == "your own" and "sallyport policy edit %s" or "sallyport policy rollback %s 0"):format(p.name))
    elseif p.status:find("changed since", 1, true) then
      edited[#edited + 1] = p.name
      say("policies", WARN, ("%s was edited, and its default has changed since"):format(p.name),
        ("compare: sallyport policy show %s; sallyport policy show %s 0"):format(p.name, p.name))
    end
  end
  if #edited == 0 then say("policies", OK, "none is behind its default") end
end

-- Credentials that do less, or reach further, than their owner may think.
local function credentials(_, say)
  local presets, suffixes, policies = require "presets", require "cli.suffixes", require "policy_store"
  local fine = true
  local function warn(level, text, fix)
    fine = false
    say("credentials", level, text, fix)
  end
  for name, record in db.each("credential", "") do
    if record and record.preset then
      local preset, why = presets.get(record.preset)
      if not preset then
        warn(BAD, ("%s is refused: %s"):format(name, why), "sallyport policy rollback presets, or add it again")
      end
    end
    local command = record and require("rows").mend(record, record.preset and presets.get(record.preset))
    if command then
      warn(BAD, ("%s is refused (injection_failed): a row of it names no place, so the agent could choose it"):format(name), command)
    end
    if record and record.attach == "placeholder:own" then
      warn(WARN, ("%s lets requests with a key of the agent's own pass (attach=placeholder:own)"):format(name),
        ("where none is needed: sallyport credential set %s attach=placeholder"):format(name))
    end
    local pol = record and policies.load(record.type)
    for _, s in ipairs(record and record.short or {}) do
      say("credentials", WARN, ("%s: %s is %s, so %s searched for it"):format(name, s.name, s.heads and "under 16 bytes" or "under 8 bytes",
        s.heads and "no answer's body is" or "no answer is"), "a longer secret, where the API has one")
    end
    if record and (record.scrub == "head" or record.scrub == "off") then
      say("credentials", WARN, ("%s: no answer's body is searched for its secret (scrub=%s)"):format(name, record.scrub),
        ("sallyport credential set %s scrub=text"):format(name))
    end
    local host, why = suffixes.first(record and record.hosts)
    if host and pol and suffixes.sends(pol, record) then
      warn(WARN, ("%s goes to %s, and %s"):format(name, host, why), ("sallyport credential set %s --host …"):format(name))
    end
  end
  for _, d in db.each("bundle", "") do
    if d and d.tunnel == "raw" then
      say("domains", WARN, ("%s (%s) is relayed unread, whatever it speaks"):format(d.host, d.bundle),
        ("if it is TLS: sallyport domain add %s %s --tunnel"):format(d.bundle, d.host))
    end
  end
  if fine then say("credentials", OK, "no wildcard that strangers answer, no preset that is gone, no row without a place, no foreign key that passes") end
end

local FETCH_ALL = 30000           -- ms for all secrets from elsewhere: each may take 10 s

-- Secrets from elsewhere: can they be had?
local function from_elsewhere(ctx, say)
  local elsewhere, time, count = require "elsewhere", require "time", 0
  local till, fine = time.now() + FETCH_ALL, true
  for name, record in db.each("credential", "") do
    local pol = record and record.from and require("policy_store").load(record.type)
    if pol then
      require("cli.fields").helpers(ctx)
      local values, code, detail, sealed = elsewhere.values(ctx.host, pol, record, math.min(till, time.now() + 10000))
      for _ in pairs(record.from) do count = count + 1 end
      if not values then
        fine = false
        say("elsewhere", BAD, ("%s: its %s (%s) cannot be had: %s%s"):format(name, elsewhere.label(sealed), record.from[sealed],
          elsewhere.sentence(code), detail and " (" .. detail .. ")" or ""), "sallyport help elsewhere")
      end
    end
  end
  if fine and count > 0 then say("elsewhere", OK, ("%d secret%s elsewhere, and can be had"):format(count, count == 1 and " lies" or "s lie")) end
end

-- What the cause of a client's failed handshake means, and what the operator does about it.
local distrust = { "it does not trust the CA", "sallyport env %agent says what each client reads; so does sallyport help clients" }
local causes = {
  unknown_ca = distrust, bad_certificate = distrust, certificate_unknown = distrust,
  certificate_expired = { "its clock, or ours, is off", "set the clocks" },
  protocol_version = { "it does not offer TLS 1.2", "let it offer TLS 1.2" },
  no_application_protocol = { "it offers HTTP/2 alone", "let it offer HTTP/1.1" },
  handshake_failure = { "no cipher or curve in common, or it offers TLS 1.3 alone",
    "let it offer TLS 1.2: ECDHE-ECDSA with AES-GCM or ChaCha20, on P-256 or X25519" },
  unrecognized_name = { "it names another host in its TLS than in its CONNECT", "its proxy settings, or a client that fronts domains" },
  not_tls = { "what it speaks is neither TLS nor HTTP", "sallyport domain add BUNDLE %host --tunnel=raw relays it, without a credential" },
  timeout = { "nothing came for 10 s: perhaps the server is to speak first", "sallyport domain add BUNDLE %host --tunnel=raw relays it, without a credential" },
}

--- Handshakes of clients that failed within a day, and strangers' protocols, as the newest records have them.
local function handshakes(ctx, say, now)
  local sums, order = {}, {}
  for _, r in ipairs(require("cli.log_files").newest(ctx.host, require("cli.log_place").current(ctx), 1000)) do
    if (r.error == "client_tls" or r.error == "not_http") and (r.time or 0) // 1000 > now - 86400 then
      local reason, more = tostring(r.reason):match("^(.-), (%d+) times more$")
      local why = (reason or tostring(r.reason)):match(": (.*)$") or "?"
      local key = ("%s\n%s\n%s"):format(r.agent, r.host, why)
      if not sums[key] then
        sums[key] = { r = r, why = why, n = 0 }
        order[#order + 1] = sums[key]
      end
      sums[key].n = sums[key].n + (math.tointeger(r.count) or 1) + (math.tointeger(tonumber(more)) or 0)
    end
  end
  for _, sum in ipairs(order) do
    local r, why = sum.r, sum.why
    if r.error == "not_http" then
      say("clients", WARN, ("%s began with %s"):format(report.count(sum.n, "connection"), why), "the proxy speaks HTTP/1.1: HTTPS_PROXY=http://…")
    else
      local known = causes[why] or { "the client ended it", nil }
      local agent, host = r.agent or "AGENT", r.host or "HOST"     -- a record of very many has no host
      say("clients", WARN, ("%s: %s with %s failed: %s (%s)"):format(agent, report.count(sum.n, "handshake"), r.host or "many hosts", why, known[1]),
        known[2] and known[2]:gsub("%%%a+", { ["%agent"] = agent, ["%host"] = host }) or nil)
    end
  end
end

--- A process of our own user that holds one of our tokens could as well read the key file.
local function same_user(ctx, say)
  local host = ctx.host
  local list, mine = {}, host.pid()
  for _, name in ipairs(require("cli.files").names("/proc")) do
    local pid = name:find("^%d+$") and math.tointeger(tonumber(name))
    local s = pid and pid ~= mine and host.stat("/proc/" .. name)
    if s and s.uid == host.uid() then
      local environ = host.read_file(("/proc/%s/environ"):format(name), 1 << 20)
      if environ and environ:find(":sp_agt_[%w_-]+@") then
        local comm = (host.read_file(("/proc/%s/comm"):format(name), 4096) or "?"):gsub("%s+$", "")
        list[#list + 1] = ("%s (%s)"):format(comm, name)
      end
    end
  end
  if #list == 0 then
    say("agents' user", OK, "no process of this user uses the proxy")
  else
    say("agents' user", WARN, ("run as the user who owns the key file: %s"):format(table.concat(list, ", ", 1,
      math.min(#list, 8))),
      "they can read every credential: run agents as another user or in a container")
  end
end

-- A finding as people read it, folded at a terminal.
local function lines_of(ctx, o)
  local width, text, fix = terminal.width(ctx), report.clean(o.text), o.fix and "-> " .. report.clean(o.fix)
  local indent, check = (" "):rep(22), ("%-15s "):format(o.check)
  if width then
    if width < BESIDE_MIN then indent, check = "      ", o.check .. "\n      " end
    text, fix = page.fill(text, width, indent), fix and page.fill(fix, width, indent .. "   ")
  end
  return ("%s  %s%s\n%s"):format(terminal.paint(ctx, terminal.meaning(o.level), ("%-4s"):format(o.level)), check, text,
    fix and indent .. fix .. "\n" or "")
end

local of_the_store = {
  { "CA", certificates }, { "credential TLS", credential_certificates }, { "client files", client_files }, { "listener", listeners },
  { "data key", data_key }, { "doors", doors.check },
  { "upstream proxy", upstream_proxy }, { "upstream TLS", upstream_tls }, { "agents' TLS", agent_tls }, { "request log", request_log }, { "policies", policies }, { "credentials", credentials }, { "elsewhere", from_elsewhere },
  { "clients", handshakes },
}

local function run(_, opt, ctx)
  local out, worst = report.array(), OK
  local function say(what, level, text, fix)
    out[#out + 1] = { check = what, level = level, text = text, fix = fix }
    if level == BAD or (level == WARN and worst == OK) then worst = level end
  end
  local now = require("time").wall()
  local visitor = doors.visitor(ctx, say)
  if not visitor and not ctx.host.stat(ctx.home) then
    report.fail("there is no data directory at " .. ctx.home, "sallyport init makes one; --home DIR names another")
  end
  if opt.accept and opt.remove then report.usage("--accept keeps what --remove removes: one of them") end
  if opt.accept then accept(ctx, say) end
  if opt.remove then remove(ctx, say) end
  if not visitor then files(ctx, say) end
  if not visitor and store(ctx, say) then
    for _, c in ipairs(of_the_store) do
      local fine, why = pcall(c[2], ctx, say, now)
      if not fine and not (type(why) == "table" and why.message) then error(why, 0) end
      if not fine then say(c[1], BAD, why.message, why.hint) end      -- a record that it reads is refused: the others are told all the same
    end
    say("server", OK, ctx.host.lock_held(ctx.home) and "runs" or "does not run")
  end
  if not visitor then machine(ctx, say, now) end
  doors.jails(ctx, say)
  if not visitor then same_user(ctx, say) end
  if ctx.json then
    ctx.out(report.json(out))
  else
    for _, o in ipairs(out) do ctx.out(lines_of(ctx, o)) end
  end
  return worst == BAD and 1 or 0
end

return {
  { words = "doctor", max = 0, summary = "what is not as it should be on this machine",
    options = {
      { name = "accept", help = "records that are refused, because they were changed on the disk, count from now on" },
      { name = "remove", help = "records that are refused are removed" },
    },
    help = [[
Checks modes and owners of files, the key, damaged records, the CA, policies behind their default, listeners
beyond loopback, memory that cannot be locked, the clock, core dumps, room on the disk, and agents that run as
the user who owns the key. Exit 1 where something is bad; warnings alone are exit 0.

A record that somebody without the key changed, put back, copied or removed on the disk is refused and named here. Make
it anew, or restore a backup. --remove removes what is refused: a token that was put back, say. --accept, while no proxy
runs, takes all that lies there now for what was written last: only if you know who changed it, because what was revoked
or removed may then count again.

examples:
  sallyport doctor
  sallyport doctor --json | jq '.[] | select(.level != "ok")'
]], run = run },
}
