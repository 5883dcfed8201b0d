--- Where a request may bear a key of the agent's own. Beside ours it would say that somebody else asks: what goes to an
-- allowed provider then ends in a stranger's account. So all of it is taken off a request to which something is attached.
-- Names in query and body are ordinary parameters elsewhere ("key", "token"): those a type or preset says.
local M = {}

--- Headers that hold a key, a token or a session for whoever reads them, "_" for "-". Cookies are a preset's to name.
M.headers = {
  "authorization", "x-authorization", "x-original-authorization", "x-forwarded-authorization",
  -- what gateways and frameworks call it
  "x-api-key", "api-key", "apikey", "x-apikey", "x-api-token", "api-token", "x-api-secret", "x-access-key",
  "x-auth-token", "auth-token", "x-auth-key", "x-auth-email", "x-auth", "x-token", "token", "x-access-token", "access-token",
  "x-id-token", "x-session-token", "session-token", "x-user-token", "x-client-secret", "x-secret-key", "x-service-token",
  "x-bearer-token", "x-oauth-token", "x-jwt-token", "x-jwt-assertion", "x-admin-token", "x-admin-key", "x-master-key",
  "x-app-token", "x-app-key", "x-application-key", "x-license-key", "x-subscription-key", "x-subscription-token",
  "x-forwarded-access-token",
  -- Google, Amazon, Microsoft, Cloudflare
  "x-goog-api-key", "x-goog-iam-authorization-token", "x-serverless-authorization", "x-amz-access-token",
  "x-amz-security-token", "ocp-apim-subscription-key", "x-functions-key", "x-ms-token-aad-access-token",
  "x-ms-authorization-auxiliary", "aeg-sas-key", "aeg-sas-token", "x-zumo-auth", "x-auth-user-service-key",
  "cf-access-token", "cf-access-jwt-assertion", "cf-access-client-secret",
  -- forges, package hosts, CI
  "private-token", "job-token", "deploy-token", "x-gitlab-token", "x-github-token", "circle-token", "x-jfrog-art-api",
  "x-nuget-apikey", "x-redmine-api-key", "x-octopus-apikey", "x-rundeck-auth-token",
  -- secret stores and clusters
  "x-vault-token", "x-consul-token", "x-nomad-token", "x-storage-token", "es-secondary-authorization",
  -- other APIs
  "xi-api-key", "x-algolia-api-key", "x-typesense-api-key", "x-meili-api-key", "dd-api-key", "dd-application-key",
  "x-insert-key", "x-query-key", "x-honeycomb-team", "x-sentry-token", "x-sentry-auth", "x-rollbar-access-token",
  "x-figma-token", "x-shopify-access-token", "x-shopify-storefront-access-token", "x-postmark-server-token",
  "x-postmark-account-token", "x-rapidapi-key", "x-mashape-key", "x-parse-rest-api-key", "x-parse-master-key",
  "x-parse-session-token", "x-hasura-admin-secret", "x-hasura-access-key", "x-ibm-client-secret", "x-cisco-meraki-api-key",
  "x-plex-token", "x-emby-token", "x-mbx-apikey", "x-cmc-pro-api-key", "x-cg-pro-api-key", "x-cg-demo-api-key",
  "x-tableau-auth", "x-trackertoken",
}

-- A WebSocket's subprotocols in which browsers send a key, for they can set no header (RFC 6455 1.9 names no such use).
local protocols = {
  "openai-insecure-api-key.",                     -- OpenAI's realtime API, and who speaks it
  "xai-client-secret.",                           -- xAI
  "base64url.bearer.authorization.k8s.io.",       -- Kubernetes
  "header-",                                      -- AWS AppSync
}
local words = { token = true, bearer = true, authorization = true, apikey = true, ["api-key"] = true, ["x-api-key"] = true,
  access_token = true, jwt = true }   -- the next one is the key: Deepgram's "token, KEY"

--- As sets of names have it.
function M.fold(name) return (name:lower():gsub("_", "-")) end

--- The names of some lists once each, as a list and as a set; without those of the set `but`.
function M.names(lists, but)
  local out, set = {}, {}
  for _, list in ipairs(lists) do
    for _, name in ipairs(list) do
      local folded = M.fold(name)
      if not set[folded] and not (but and but[folded]) then out[#out + 1], set[folded] = name, true end
    end
  end
  return out, set
end

--- A field of subprotocols: what is left of it, or nil | the ones that hold a key, a list. Both nil: nothing to take.
function M.subprotocols(value)
  local left, gone, next_is = {}, {}, false
  for item in value:gmatch("[^,]+") do
    local text = item:match("^%s*(.-)%s*$")
    local key = next_is
    next_is = not key and words[text:lower()] ~= nil
    for _, p in ipairs(protocols) do key = key or text:sub(1, #p):lower() == p end
    if key then gone[#gone + 1] = text end
    if not key then left[#left + 1] = text end
  end
  if not gone[1] then return nil end
  return left[1] and table.concat(left, ", ") or nil, gone
end

return M
