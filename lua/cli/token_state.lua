--- How the token of a credential stands, for the commands that show it.
local report = require "cli.report"
local M = {}

--- { valid, renewable, last_error, … } of the credential `name` at `now` (Unix s) | nil: it has never had a token.
function M.read(name, now)
  local state = require("store").peek("state", name)
  if not state then return nil end
  local out = { last_error = state.last_error, error_detail = state.error_detail, error_why = require("token").why(state), last_error_at = state.last_error_at,
    valid = state.expires_at ~= nil and state.expires_at > now and not state.final and not state.dropped }
  for _, k in ipairs { "expires_at", "obtained_at", "connected_at", "refused_at", "scopes", "granted", "wanted" } do
    out[k] = type(state[k]) == "table" and report.array(state[k]) or state[k]
  end
  for _, sealed in ipairs(state.sealed or {}) do
    out.renewable = out.renewable or sealed == "refresh_token"
  end
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
