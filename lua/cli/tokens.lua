--- Agents' proxy tokens: made here, shown once, kept as a hash.
local db = require "cli.db"
local report = require "cli.report"
local M = {}

local SWEEP_MAX = 64   -- expired tokens that one commit takes along
local ENDED_KEPT = 30 * 86400   -- s for which it is known how a token ended
local ENDED_MAX = 1000  -- of all agents: a script may ask `env` for a token each minute

--- A name for the tokens that end together: a token counts only while its agent's record names its series. So none comes
-- back after a rotation that did not see it, because somebody had taken it off the disk for a while.
function M.series(host) return host.random_token(""):sub(1, 16) end

--- -> token, the operation that keeps its hash. series: of the agent's record.
function M.issue(host, agent, label, expires_at, now, series)
  local token, hash = host.random_token("sp_agt_")
  return token, { op = "put", db = "agent", key = "t/" .. hash, version = 0,
    plain = { agent = agent, label = label, created = now, expires_at = expires_at, series = series } }
end

--- The agent's record written as it is: whoever issues or drops tokens of an agent at the same time meets a conflict and
-- looks again, so that no token survives a rotation that did not see it.
function M.touch(record)
  return { op = "put", db = "agent", key = "a/" .. record.name, version = record.version, plain = db.plain(record) }
end

-- Operations that forget how tokens ended: of those longest ago, and of what `new` more leave no room for.
local function forget(ops, ended, new, now)
  local list = {}
  for key, record in pairs(ended) do list[#list + 1] = { key = key, at = record.at } end
  table.sort(list, function(a, b)
    if a.at ~= b.at then return a.at < b.at end
    return a.key < b.key
  end)
  local over = #list + new - ENDED_MAX
  for i = 1, math.min(#list, new + SWEEP_MAX) do
    if i > over and list[i].at + ENDED_KEPT >= now then break end
    ops[#ops + 1] = { op = "del", db = "agent", key = list[i].key }
  end
end

--- Operations that drop tokens: those of `agent`, and of all agents what expired. `how`: "rotated" or "revoked". For a
-- while the store keeps, by their hashes, how they ended: who still shows one is told.
function M.drop(agent, now, how)
  local ops, ended, new, swept, spoilt = {}, {}, 0, 0, {}
  for key, record in db.each("agent", "e/") do
    ended[key], spoilt[key] = record, not record
  end
  for key, record in db.each("agent", "t/") do
    if not record then                              -- refused already
      if swept < SWEEP_MAX then swept, ops[#ops + 1] = swept + 1, { op = "del", db = "agent", key = key } end
    else
      local expired = record.expires_at and record.expires_at < now and swept < SWEEP_MAX
      if expired then swept = swept + 1 end
      if expired or record.agent == agent then
        local end_of = "e/" .. key:sub(3)
        ops[#ops + 1] = { op = "del", db = "agent", key = key }
        if new < ENDED_MAX then
          local version = ended[end_of] and ended[end_of].version or 0
          if spoilt[end_of] then version = nil end   -- one that was changed on the disk is replaced
          ops[#ops + 1] = { op = "put", db = "agent", key = end_of, version = version,
            plain = { agent = record.agent, ended = expired and "expired" or how, at = now } }
          new, ended[end_of] = new + 1, nil
        end
      end
    end
  end
  forget(ops, ended, new, now)
  return ops
end

--- Ends the command for a tenant: people come in for it by the door, and no token of its own may. hint: the command that is meant | nil
function M.refuse_tenant(record, hint)
  if record.kind == "tenant" then
    report.fail(("'%s' is a tenant: people come in for it by the door, and it is nobody at the proxy"):format(record.name),
      hint and hint .. " " .. record.name or "sallyport key add NAME --tenant " .. record.name .. " --role viewer")
  end
end

--- Makes and keeps one: the token. expires_at: Unix s | nil.
function M.make(host, agent, label, expires_at, now)
  local token
  db.change(function()
    local record = db.need("agent", agent)
    M.refuse_tenant(record)
    if record.revoked then report.fail(("'%s' is revoked"):format(agent), "sallyport agent add") end
    local ops, kept = M.drop(nil, now), nil
    token, kept = M.issue(host, agent, label, math.tointeger(expires_at), now, record.series)
    ops[#ops + 1] = M.touch(record)
    ops[#ops + 1] = kept
    return ops
  end)
  return token
end

--- The agent whose token SALLYPORT_TOKEN is, and when it ends; the command ends when it is nobody's.
function M.owner(host, token, now)
  local record = db.peek("agent", "t/" .. host.sha256_hex(token), "the token")
  if not record or (record.expires_at and record.expires_at < now) then
    report.fail("SALLYPORT_TOKEN is no token of this store, or it has ended", "unset it, and a new one is made")
  end
  return record.agent, record.expires_at
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
