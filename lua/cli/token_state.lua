--- How the token of a credential stands, for the commands that show it.
local report = require "cli.report"
local M = {}

--- { valid, renewable, last_error, … } of the credential's token at `now` (Unix s) | nil: it has never had one. A token, or
-- a failure, of what the credential was before it was changed counts as the worker counts it.
function M.read(record, now)
  local state, token = require("store").peek("state", record.name), require "token"
  if not state then return nil end
  local pol = require("policy_store").load(record.type)
  local out = { valid = not state.final and token.standing(state, record.version, now, pol and token.earner(pol, record)) ~= "none" }
  if not state.error_version or state.error_version == record.version then
    out.last_error, out.error_detail, out.last_error_at = state.last_error, state.error_detail, state.last_error_at
    out.error_why = token.why(state)
  end
  for _, k in ipairs { "expires_at", "obtained_at", "connected_at", "refused_at", "scopes", "granted", "wanted" } do
    out[k] = type(state[k]) == "table" and report.array(state[k]) or state[k]
  end
  for _, sealed in ipairs(state.sealed or {}) do
    out.renewable = out.renewable or sealed == "refresh_token"
  end
  -- from then on a request renews it
  if out.valid and pol and pol.refresh and (out.renewable or not pol.connect) then out.refresh_at = state.fresh_until end
  return out
end

--- How the token of a type that a person connects stands, in a word.
function M.connection(token)
  if not token or not (token.obtained_at or token.renewable) then return "not connected" end
  if token.wanted then return "connected, wants scopes" end
  if token.valid then return "connected" end
  if token.last_error or not token.renewable then return "connect it anew" end
  return "connected"
end

return M
