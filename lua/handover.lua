--- What was handed over on the control socket (`sallyport run`): whose it is, and which address stands for which name.
-- A name that an entry or credential of the agent allows gets an address of 198.18.0.0/15 (RFC 2544: of no host's), which a
-- connection then names it by. C calls `call` for what the listeners of a handover hear (proxy.c, section handover).
local M = {}

local BASE, SIZE = 0xC6120000, 1 << 17          -- 198.18.0.0/15
local NAMES_MAX = 4096                          -- of one handover: its agent asks for what it likes
local MOST, SHARE = 512, 256                    -- handovers of this worker at once, and of one agent

local live, count, last = {}, 0, 0              -- id -> { agent =, names = { name = address }, of = { address = name }, n = }

--- A new handover for this agent -> its id | nil: this worker, or the agent, has its share.
function M.begin(agent)
  local own = 0
  for _, h in pairs(live) do own = own + (h.agent == agent and 1 or 0) end
  if count >= MOST or own >= SHARE then return nil end
  last, count = last + 1, count + 1
  live[last] = { agent = agent, names = {}, of = {}, n = 0 }
  return last
end

--- It has gone, with all that came in by it.
function M.ended(id)
  if live[id] then live[id], count = nil, count - 1 end
end

-- The address of a name that is allowed: the same in each handover, as far as others leave it free, because clients keep
-- addresses for longer than a server may live. nil, true: no room.
local function address_of(h, name)
  local known = h.names[name]
  if known then return known end
  if h.n >= NAMES_MAX then return nil, true end
  local at = tonumber(require("host").sha256_hex(name):sub(1, 8), 16) % (SIZE - 2)
  while h.of[BASE + 1 + at] do at = (at + 1) % (SIZE - 2) end
  h.n, h.names[name], h.of[BASE + 1 + at] = h.n + 1, BASE + 1 + at, name
  return h.names[name]
end

local function number(text)
  local parts = { text:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$") }
  local n = 0
  for _, part in ipairs(parts) do n = n << 8 | tonumber(part) end
  return n
end

local calls = {
  -- The host that an address was given to.
  host = function(h, text) return h.of[number(text)] end,
}

function calls.udp(h, message)
  return (require("dns").answer(message, function(name)
    local host, is_ip = require("http").canonical_host(name)
    if not host or is_ip or not require("pipeline").names(h.agent, host) then return nil end
    return address_of(h, host)
  end))
end
-- A length of two bytes stands before each message (RFC 1035 4.2.2).
function calls.tcp(h, message)
  local answer = calls.udp(h, message)
  return answer and (">s2"):pack(answer)
end

--- call(op, id, text) -> text | nil. ops: "udp", "tcp" (a DNS message, its answer), "host" (an address, its name), "ended".
function M.call(op, id, text)
  if op == "ended" then return M.ended(id) end
  return live[id] and calls[op](live[id], text)
end

return M
