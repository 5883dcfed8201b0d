--- What the Claude Code CLI of a sandbox reads in its home directory: placeholders in the tokens' places.
local FAR = 365 * 86400    -- s: the placeholder's own end, so that the CLI seldom asks for another
local M = {}

--- .claude/.credentials.json. parts: stand_in.parts; rec.claude_code = { subscription, tier } is from the account's own.
function M.credentials(rec, parts, now)
  local json, account = require "json", rec.claude_code or {}
  return json.encode({ claudeAiOauth = {
    accessToken = parts.access_token, refreshToken = parts.refresh_token, expiresAt = (now + FAR) * 1000,
    scopes = json.array(rec.fields.scopes or {}), subscriptionType = account.subscription, rateLimitTier = account.tier,
  } }, { indent = 2 }) .. "\n"
end

--- .claude.json: the CLI need not ask who it is.
function M.onboarding() return require("json").encode({ hasCompletedOnboarding = true }, { indent = 2 }) .. "\n" end

return M
