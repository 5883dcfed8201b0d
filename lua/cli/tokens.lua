--- Agents' proxy tokens: made here, shown once, kept as a hash.
local db = require "cli.db"
local M = {}

local SWEEP_MAX = 64   -- expired tokens that one commit takes along
local ENDED_KEPT = 30 * 86400   -- s for which it is known how a token ended

--- -> token, the operation that keeps its hash.
function M.issue(host, agent, label, expires_at, now)
  local token, hash = host.random_token("sp_agt_")
  return token, { op = "put", db = "agent", key = "t/" .. hash, version = 0,
    plain = { agent = agent, label = label, created = now, expires_at = expires_at } }
end

--- The agent's record written as it is: whoever issues or drops tokens of an agent at the same time meets a conflict and
-- looks again, so that no token survives a rotation that did not see it.
function M.touch(record)
  return { op = "put", db = "agent", key = "a/" .. record.name, version = record.version, plain = db.plain(record) }
end

--- Operations that drop tokens: those of `agent`, and of all agents what expired. `how`: "rotated" or "revoked". For a
-- while the store keeps, by their hashes, how they ended: who still shows one is told.
function M.drop(agent, now, how)
  local ops, swept, ended = {}, 0, {}
  for key, record in db.each("agent", "e/") do
    ended[key] = record and record.version
    if record and record.at + ENDED_KEPT < now and swept < SWEEP_MAX then
      swept = swept + 1
      ended[key], ops[#ops + 1] = nil, { op = "del", db = "agent", key = key }
    end
  end
  swept = 0
  for key, record in db.each("agent", "t/") do
    if record then
      local expired = record.expires_at and record.expires_at < now and swept < SWEEP_MAX
      if expired then swept = swept + 1 end
      if expired or record.agent == agent then
        local hash = key:sub(3)
        ops[#ops + 1] = { op = "del", db = "agent", key = key }
        ops[#ops + 1] = { op = "put", db = "agent", key = "e/" .. hash, version = ended["e/" .. hash] or 0,
          plain = { agent = record.agent, ended = expired and "expired" or how, at = now } }
      end
    end
  end
  return ops
end

--- Tokens that count now, by agent: { name = { {label, created, expires_at}… } }.
function M.by_agent(now)
  local all = {}
  for _, record in db.each("agent", "t/") do
    if record and not (record.expires_at and record.expires_at < now) then
      local list = all[record.agent] or {}
      all[record.agent] = list
      list[#list + 1] = { label = record.label, created = record.created, expires_at = record.expires_at }
    end
  end
  for _, list in pairs(all) do
    table.sort(list, function(a, b) return a.created < b.created end)
  end
  return all
end

return M
