--- What the address guard would say, for `explain`: as the running proxy has it, or as the kept settings say.
local home = require "cli.home"
local records = require "records"
local M = {}

local NAMES_MAX = 64      -- addresses of one name that are looked at
local LOOK_UP_MAX = 10    -- seconds: a resolver that does not answer must not hold the command

-- The addresses of a name, as this machine finds them now. nil: none, or getent is not there.
local function look_up(name)
  if not name:find("^[%w._-]+$") or name:find("^-") then return nil end
  local p = io.popen(("timeout %d getent ahosts %s 2>/dev/null"):format(LOOK_UP_MAX, name))
  local found, seen = {}, {}
  for line in p and p:lines() or function() end do
    local a = line:match("^(%S+)")
    if a and not seen[a] and #found < NAMES_MAX then found[#found + 1], seen[a] = a, true end
  end
  if p then p:close() end
  return found[1] and found or nil
end

local function blocked(a, spec, settings, listen)
  local addr = require "addr"
  local why = addr.guard(a)
  local here = why and (why:find("loopback", 1, true) or why:find("this machine's own address", 1, true))
  for _, l in ipairs(listen) do
    local own, port = l:match("^%[?(.-)%]?:(%d+)=?[^=]*$")
    local any = here and (own == "0.0.0.0" or own == "::")
    if (own == a or any) and tonumber(port) == spec.port then return "one of Sallyport's own listeners" end
  end
  for _, list in ipairs { settings.allow_address, spec.addresses or {} } do
    for _, range in ipairs(list) do
      if addr.within(a, range) then return nil end
    end
  end
  return why
end

--- spec = { host (canonical), port, addresses = the entry's own, tls, exact = as for route:way,
--   resolve = true: names are looked up }.
-- -> "allowed", note | "blocked", "ADDRESS: why" | "blocked", message, hint | "unknown", note
function M.judge(ctx, spec)
  local running = home.running(ctx)
  local settings = records.settings(running and running.flags)
  for _, text in ipairs(settings.connect_to or {}) do
    local host, port, to = text:match("^(.-):(%d*):(.*)$")
    if (host == "" or host == spec.host) and (port == "" or tonumber(port) == spec.port) then
      return "allowed", "connect-to sends it to " .. to
    end
  end
  local route = require("route").new(settings)
  local via, straight, message, hint
  if route then
    via, straight, message, hint = route:way(spec)
    if via == nil then return "blocked", message, hint end
  end
  local literal = require("addr").parse((spec.host:gsub("^%[(.*)%]$", "%1")))
  local through = via and ("through the upstream proxy %s"):format(settings.upstream_proxy)
  if via and not literal then return "allowed", through .. ", which looks the name up" end
  local list = literal and { literal } or spec.resolve and look_up(spec.host)
  straight = straight and ("not through the upstream proxy (%s)"):format(straight)
  local more = straight and "; " .. straight or ""
  if not list then
    return "unknown", (spec.resolve and "the name has no address here, or it cannot be looked up (getent)"
      or "if all addresses of the name are public (--resolve looks)") .. more
  end
  for _, a in ipairs(list) do
    local why = blocked(a, spec, settings, running and running.listen or {})
    if why then return "blocked", ("%s: %s"):format(a, why) end
  end
  if through then return "allowed", through end
  return "allowed", not literal and "its addresses are " .. table.concat(list, ", ") .. more or straight
end

--- The guard after a decision: where it blocks, what `decision.explain` answered becomes a refusal.
function M.last_word(ctx, d, resolve)
  local how, why, hint = M.judge(ctx, { host = d.host, port = d.port, addresses = d.addresses, resolve = resolve,
    tls = d.tls, exact = d.exact })
  if how ~= "blocked" then
    d.address = why
    return
  end
  local codes = require("errors").codes.address_blocked
  d.decision, d.code, d.reason, d.status, d.message = "deny", "address_blocked", "address_blocked", codes[1], codes[2] .. ": " .. why
  local address = why:match("^(.-): ")
  if hint then
    d.message, d.hint = why, hint
    return
  end
  d.hint = not why:find("own listeners", 1, true) and (d.credential and ("sallyport credential set %s --address %s"):format(d.credential, address)
    or d.domain and ("sallyport domain set %s %s --address %s"):format(d.bundle, require("env").quote(d.domain), table.concat({ address, table.unpack(d.addresses or {}) }, ","))) or nil
end

return M
