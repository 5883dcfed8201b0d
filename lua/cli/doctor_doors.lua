--- sallyport doctor, of the doors: what holds here for sockets, redirected connections, the control socket and jails.
local home = require "cli.home"
local records = require "records"
local M = {}

local OK, WARN = "ok", "warn"
local NET_ADMIN = 1 << 12         -- CAP_NET_ADMIN in /proc/PID/status (capabilities(7))
local MODULES_MAX = 4 << 20

--- Has this process the right to take connections for addresses that are not this machine's (IP_TRANSPARENT, ip(7))?
function M.may_tproxy(host)
  local caps = (host.read_file("/proc/self/status", 65536) or ""):match("\nCapEff:%s*(%x+)")
  return caps ~= nil and tonumber(caps, 16) & NET_ADMIN ~= 0
end

-- Is there a rule that sends marked packets to another table (ip rule add fwmark …)? nil: it cannot be asked.
local function marked()
  local core = require "jail"
  local s = core.call("socket", 16, 3 | 0x80000, 0)              -- AF_NETLINK, SOCK_RAW, NETLINK_ROUTE
  if not s then return nil end
  local body = ("\2"):rep(1) .. ("\0"):rep(11)                   -- struct fib_rule_hdr: AF_INET
  local ask = string.pack("=I4I2I2I4I4", 16 + #body, 34, 0x301, 1, 0) .. body          -- RTM_GETRULE; NLM_F_REQUEST, NLM_F_DUMP
  local found, done = false, core.call("sendto", s, ask, #ask) == nil
  for _ = 1, 64 do
    local n, text = nil, nil
    if not done then n, text = core.call("read", s, { 32768 }, 32768) end
    if not n or n < 16 then break end
    local at = 1
    while at + 15 <= n do
      local length, kind = string.unpack("=I4I2", text, at)
      if length < 16 then break end
      if kind ~= 32 then done = true break end                   -- RTM_NEWRULE; else NLMSG_DONE, or an error
      local attribute = at + 28
      while attribute + 3 < at + length do
        local size, name = string.unpack("=I2I2", text, attribute)
        if size < 4 then break end
        found = found or name == 10                              -- FRA_FWMARK
        attribute = attribute + (size + 3) // 4 * 4
      end
      at = at + (length + 3) // 4 * 4
    end
  end
  core.call("close", s)
  return found
end

-- Does this kernel have TPROXY, loaded, built in or as a module? nil: nothing says so.
local function has_tproxy(host)
  local release = (host.read_file("/proc/sys/kernel/osrelease", 256) or ""):match("^%S+") or ""
  local known
  for _, path in ipairs { "/proc/modules", ("/lib/modules/%s/modules.builtin"):format(release), ("/lib/modules/%s/modules.dep"):format(release),
    "/proc/net/ip_tables_targets" } do
    local text = host.read_file(path, MODULES_MAX)
    if text and text:lower():find("tproxy", 1, true) then return true end
    known = known or text and path:find("^/lib") ~= nil
  end
  if known then return false end
end

-- Connections that are redirected to us.
local function transparent(ctx, say, running, all)
  if not all.transparent[1] then return end
  local may = M.may_tproxy(ctx.host)
  if running then may = running.flags and running.flags.tproxy end
  local lacks, fix = {}, {}
  if not may then
    lacks[#lacks + 1], fix[#fix + 1] = "the server has no CAP_NET_ADMIN", "AmbientCapabilities=CAP_NET_ADMIN in its unit, or start it as root"
  end
  if has_tproxy(ctx.host) == false then
    lacks[#lacks + 1], fix[#fix + 1] = "the kernel has no nft_tproxy", "a kernel with CONFIG_NFT_TPROXY"
  end
  if marked() == false then
    lacks[#lacks + 1] = "no rule leads marked packets here"
    fix[#fix + 1] = "ip rule add fwmark 1 lookup 100; ip route add local 0.0.0.0/0 dev lo table 100"
  end
  say("redirected", OK, ("%s takes what REDIRECT sends%s"):format(table.concat(all.transparent, ", "),
    lacks[1] and ("; not what TPROXY sends: " .. table.concat(lacks, ", ")) or ", and TPROXY"),
    lacks[1] and "for TPROXY: " .. table.concat(fix, "; ") or nil)
end

-- Unix sockets of the proxy that runs: are they there, and can agents' users get to them?
local function sockets(ctx, say, running)
  for _, text in ipairs(running and running.listen or {}) do
    local l = records.listener(text)
    local st = l and l.path and ctx.host.stat(l.path)
    if l and l.path and not (st and st.type == "socket") then
      say("listener", WARN, ("%s is not there any more: who connects finds nobody"):format(l.path), "start the server again")
    elseif st and home.shut(ctx, l.path) then
      say("listener", WARN, ("other users cannot enter %s, so not connect to %s"):format(home.shut(ctx, l.path), l.path),
        "a socket in /run/sallyport, or in another folder that agents' users can enter")
    end
  end
end

local function control(ctx, say, running)
  local path = running and require("cli.control").paths(ctx)[1]
  local socket = path and ctx.host.stat(path)
  if socket and socket.type == "socket" then
    local shut, most = home.shut(ctx, path), require("cli.control").MAX
    if #path > most then
      say("control", WARN, ("%s has %d bytes, and other programs take %d for a socket's path (unix(7)): ssh -L and curl do not reach it, sallyport itself does"):format(path, #path, most),
        "a symbolic link to its folder, or SALLYPORT_CONTROL, has a shorter one; sallyport set admin 127.0.0.1:7443 has the page on a port")
    end
    say("control", OK, path .. (shut and (" (other users cannot enter %s: jails of theirs need SALLYPORT_CONTROL elsewhere)"):format(shut) or ""))
  elseif running then
    say("control", WARN, ("there is no control socket at %s: jails need it"):format(path), "serve says why when it starts; SALLYPORT_CONTROL names another place")
  end
end

--- The doors of the store that is open.
function M.check(ctx, say)
  local running = home.running(ctx)
  local all = records.settings(running and running.flags)
  sockets(ctx, say, running)
  transparent(ctx, say, running, all)
  control(ctx, say, running)
end

--- For a user whose store it is not: what the server that runs here says of him. false: there is none
function M.visitor(ctx, say)
  local what, why, hint = require("cli.control_client").visitor(ctx)
  if why then say("control", WARN, why, hint) end
  if what then say("control", OK, ("the server that runs here takes this user for agent %s: `sallyport run` and `sallyport env` are what it may"):format(what.agent)) end
  return what ~= nil or why ~= nil
end

--- What `sallyport run` can do here: root's commands run as another user, so nobody's rights are tried then.
function M.jails(ctx, say)
  local uid, jail = ctx.host.uid(), require "cli.jail"
  local gid = math.tointeger((ctx.host.read_file("/proc/self/status", 65536) or ""):match("\nGid:%s+%d+%s+(%d+)"))
  local ok, fault = jail.trial(uid == 0 and { uid = 65534, gid = 65534, groups = {} } or { uid = uid, gid = gid }, ctx.host.arg0)
  if ok then
    say("jails", OK, "`sallyport run` can make them")
  else
    say("jails", WARN, require("cli.run").explained(fault))
  end
end

return M
