--- What --json shows of a credential, an agent, a bundle and a domain entry: one form, whichever command prints it.
-- `sallyport help json` lists the members.
local db = require "cli.db"
local report = require "cli.report"
local M = {}

local LISTS = { "hosts", "ports", "methods", "paths", "addresses", "seal_hosts", "bundles", "keep", "rows", "keys" }
local PLAIN = { "name", "type", "plain_http", "preset", "placeholder", "mint", "scrub", "attach", "tls", "client_cert", "ca", "answer_timeout",
  "idle_timeout", "upstream_http", "created", "fields", "headers", "split", "mcp", "claude_code", "demo" }

--- The names of a record's secrets, sorted.
function M.secrets(record)
  local names = {}
  for _, sealed in ipairs(record.sealed or {}) do
    names[#names + 1] = sealed:gsub("^[fc]/", ""):gsub("^h/", "headers."):gsub("/", ".")
  end
  for sealed in pairs(record.from or {}) do names[#names + 1] = require("elsewhere").label(sealed) end
  table.sort(names)
  return report.array(names)
end

--- A credential's record; with `now` (Unix s) also how its token stands, and who refused it last.
function M.credential(record, now)
  local out = {}
  for _, k in ipairs(PLAIN) do out[k] = record[k] end
  for _, k in ipairs(LISTS) do out[k] = record[k] and report.array(record[k]) end
  out.fields = out.fields or {}
  out.state = record.enabled == false and "disabled" or "enabled"
  out.env = record.env and report.array { record.env, table.unpack(record.env_also or {}) }
  out.secrets = M.secrets(record)
  for sealed, text in pairs(record.from or {}) do
    out.from = out.from or {}
    out.from[require("elsewhere").label(sealed)] = text
  end
  out.ttl = record.from and (record.ttl or require("elsewhere").TTL) or nil
  require("cli.tls").public(out)
  local states, pol = require "cli.token_state", require("policy_store").load(record.type)
  local signs_in = pol and pol.connect
  local token = (now or signs_in) and states.read(record, now or require("time").wall())
  out.account = signs_in and states.connection(token) or nil
  if now then
    out.token = token
    local refused = require("refused").last(record, out.token and out.token.obtained_at)
    out.refused = refused and { at = report.time(refused.at), host = refused.host }
  end
  return out
end

--- The credential of that name, as it is in the store now.
function M.credential_named(name)
  return M.credential(db.need("credential", name), require("time").wall())
end

--- What an agent is, in a word. a: its record
function M.agent_state(a, now)
  return a.revoked and "revoked" or a.enabled == false and "disabled" or a.expires_at and a.expires_at <= now and "expired" or "active"
end

--- An agent's record; `tokens`: those of it that count (tokens.by_agent).
function M.agent(a, tokens, now)
  local shown = report.array()
  local through = require("doors").of(require("store").peek("agent", "d/doors"), a.name)
  for i, t in ipairs(tokens or {}) do shown[i] = { label = t.label, created = t.created, expires_at = t.expires_at } end
  return { name = a.name, bundles = report.array(a.bundles), tokens = shown, created = a.created, expires_at = a.expires_at,
    state = M.agent_state(a, now),
    variables = a.variables or {}, variables_off = a.variables_off, requests = a.requests, uid = through.uid and report.array(through.uid),
    from = through.from and report.array(through.from) }
end

--- The agent of that name, as it is in the store now; `token`: one that was just made.
function M.agent_named(name, token)
  local now = require("time").wall()
  local out = M.agent(db.need("agent", name), require("cli.tokens").by_agent(now)[name], now)
  out.token = token
  return out
end

--- A domain entry.
function M.domain(d)
  return { host = d.host, name = d.name, state = d.enabled == false and "disabled" or "enabled", methods = not d.tunnel and report.array(d.methods or { "GET", "HEAD", "OPTIONS" }) or nil, ports = report.array(d.ports or { 443 }),
    paths = d.paths and report.array(d.paths), addresses = d.addresses and report.array(d.addresses), tunnel = d.tunnel or false, tls = d.tls,
    created = d.created }
end

--- A bundle: what it holds is read by the caller.
function M.bundle(name, held)
  local domains = report.array()
  for i, d in ipairs(held.domains) do domains[i] = M.domain(d) end
  return { name = name, state = held.off and "disabled" or "enabled", credentials = report.array(held.credentials), agents = report.array(held.agents), tenants = held.tenants[1] and report.array(held.tenants), domains = domains,
    rules = report.array(held.rules or {}), variables = held.variables, variables_off = held.variables_off }
end

return M
