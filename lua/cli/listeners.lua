--- Listeners as commands see them: what `serve` has written into its lock, and what is risky about one.
local records = require "records"
local M = {}

--- { text, … } as bound -> the same as specs of records.listener.
function M.all(list)
  local out = {}
  for _, text in ipairs(list) do out[#out + 1] = records.listener(text) or { text = text } end
  return out
end

--- The one that clients of this machine dial, of all: the agent's own, else the first that is nobody's; TCP alone.
-- -> "127.0.0.1:7080" | nil, is it bound to that agent?
function M.dialled(list, agent)
  local first
  for _, l in ipairs(M.all(list)) do
    local at = l.address and l.text:match("^[^=]*")
    if at and l.agent and l.agent == agent then return at, true end
    if at and not l.agent then first = first or at end
  end
  return first, false
end

--- Is what clients dial as this address (HOST:PORT) bound to the agent? all: listeners' texts.
function M.bound(list, address, agent)
  local host, port = address:match("^(.+):(%d+)$")
  local bound = false
  if host == "localhost" then host = "127.0.0.1" end
  for _, l in ipairs(M.all(list)) do
    local at, own = (l.address and l.text or ""):match("^([^=,]+):(%d+)")
    if at and own == port and (at == host or at == "0.0.0.0" or at == "[::]") then
      if l.agent ~= agent then return false end
      bound = true
    end
  end
  return bound
end

--- What an operator should know of a listener: a list of texts. hidden: no token comes to it in the clear.
function M.risks(host, text, hidden)
  local l, out = records.listener(text), {}
  if not l then return out end
  if l.address and not l.address:find("^127%.") and l.address ~= "::1" then
    if l.agent then
      out[1] = ("can be reached from other machines: whoever does is agent %s, without a token"):format(l.agent)
    elseif not hidden then
      out[1] = "can be reached from other machines; tokens travel to it in the clear"
    end
  elseif l.address and l.agent then
    out[1] = ("is agent %s's without a token: every program of this machine can use it"):format(l.agent)
  elseif l.path and l.agent then
    local st = host.stat(l.path)
    if st and st.mode and st.mode & 2 ~= 0 then
      out[1] = ("is agent %s's without a token, and its mode lets every user connect"):format(l.agent)
    end
  end
  return out
end

return M
