--- Agents by the door that they come through: a listener bound to one, a Unix socket's user, a source address.
-- C writes who it is where a token's hash would stand: "=AGENT", "uid:1001", "from:10.0.5.3%veth0" (with the interface that
-- it came in by); of a connection that was redirected to us "~AGENT", "via:10.0.5.3%veth0" (proxy.c, section door).
-- The record `d/doors` of the agent database says whose users and addresses are:
--   { uid = { ["1001"] = "claude" }, from = { ["10.0.5.0/24"] = "box", veth0 = "vm" } }
local M = { KEY = "d/doors", MOST = 1000 }

--- Is that a door, and no token's hash?
function M.is(who) return who:find("[=:~]") ~= nil end

--- Was the connection redirected to us, by a client that knows of no proxy?
function M.captured(who) return who ~= nil and who:find("^[~v]") ~= nil end

local INTERFACE_MAX = 15    -- IFNAMSIZ, less the NUL

--- The name of an interface, which is no address | nil
function M.interface(text) return text:find("^%a[%w._-]*$") and #text <= INTERFACE_MAX and text or nil end

--- The agent of a door | nil: nobody's. record: `d/doors` | nil. An interface counts before ranges: the kernel says it, and the
-- sender says his address. Of several ranges the longest prefix counts.
function M.agent(record, who)
  local bound = who:match("^[=~](.*)$")
  if bound then return bound end
  local kind, value = who:match("^(%l+):(.*)$")
  if not record or not kind then return nil end
  if kind == "uid" then return record.uid and record.uid[value] end
  local within, best, length = require("addr").within, nil, -1
  local address, interface = value:match("^([^%%]*)%%?(.*)$")
  if kind ~= "uid" and record.from and record.from[interface] then return record.from[interface] end
  for range, agent in pairs(kind ~= "uid" and record.from or {}) do
    local bits = tonumber(range:match("/(%d+)$")) or -1
    if bits > length and within(address, range) then best, length = agent, bits end
  end
  return best
end

--- What is the agent's, sorted: { uid = {"1001"}, from = {"10.0.5.0/24"} }; a list that is empty is nil.
function M.of(record, name)
  local out = {}
  for _, kind in ipairs { "uid", "from" } do
    local list = {}
    for value, agent in pairs(record and record[kind] or {}) do
      if agent == name then list[#list + 1] = value end
    end
    table.sort(list)
    out[kind] = list[1] and list or nil
  end
  return out
end

--- The same record with this agent's doors replaced: `new` = { uid = list | nil: as they are, from = … }.
-- -> { uid =, from = } | nil, why, whose it is.
function M.with(record, name, new)
  local out, n = {}, 0
  for _, kind in ipairs { "uid", "from" } do
    out[kind] = {}
    for value, agent in pairs(record and record[kind] or {}) do
      if agent ~= name or not new[kind] then out[kind][value], n = agent, n + 1 end
    end
    for _, value in ipairs(new[kind] or {}) do
      if out[kind][value] and out[kind][value] ~= name then return nil, value, out[kind][value] end
      out[kind][value], n = name, n + 1
    end
  end
  if n > M.MOST then return nil, "full" end
  return out
end

return M
