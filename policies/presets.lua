--- Well-known APIs: where each goes, how its key is sent, and what a sandbox must not do with it.
--   sallyport credential presets             lists them; `credential presets NAME` shows everything
--   sallyport credential add gh --preset github token=-
--   sallyport policy edit presets            adds your own
--
-- A row is data: what `credential add` would have to be told. What is said on the command line comes before it.
--   name, title   a word for the command line, and what it stands for
--   words         what people also call it, or look for: the page's search, and `credential add --preset` where no preset is called so, know them
--   type          the credential type
--   hosts, paths  as --host and --path; "{site}.example.com" is a gap: --host says which
--   fields        plain fields of the type; {host} is the first host
--   headers       further headers, plain
--   ask           what the fields that a person must give are, by name (or claims.iss): said where one is missing
--   env           variables that clients read their key from: a placeholder goes in each
--   with          variables that are set beside them, with their values; without_mint: those that are so where such calls are refused
--   placeholder   its shape: {N} letters and digits, {N:hex}, {N:digit}, {N:alpha}, {N:upper} (and 2 to 7), {N:url}
--   carriers      names under which the API takes a key too: the sandbox's own goes, whatever the type sends. headers;
--                 query (and forms); body (multipart and JSON too). Headers that hold keys are known
--                 (lua/carriers.lua): "cookie", and the API's own, are for here
--   within        paths below which one segment holds several names, its slashes as "%2F": --path with plain slashes
--                 covers that, too
--   mint          calls that answer with further credentials, refused unless mint=allow (rows as in lua/mint.lua)
--   seal          calls whose answer's credentials are sealed (rows as in lua/seal.lua)
--   file          "kubeconfig": what `credential sandbox-file` writes for it
--   files         hosts to which the API's answers lead, with addresses that are signed, or where its libraries read their
--                 configuration: opened for reading when the credential is added, without it: its token would be refused
--                 there, or known where it need not be
--   make          where the key is made
--   test          what `credential test` reads; {host} and {FIELD} are filled in. test_headers go with it
--   note          what else a person should know
-- files are domain entries from then on. carriers, within, mint and seal are looked up here for each credential that was added with the preset, so that a change of this
-- file is in force for those that exist. The rest is copied into the credential when it is added.

local UUID = "{8:hex}-{4:hex}-4{3:hex}-a{3:hex}-{12:hex}"

-- A JWT that clients may take apart: its payload is {"exp":4102444800}, in the year 2100.
local JWT = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDB9.{43:url}"

-- POST alone, of which most rows are: { path, what }.
local function post(rows)
  for i, row in ipairs(rows) do
    rows[i] = { method = row.method or "POST", host = row.host, path = row[1], query = row.query, body = row.body, graphql = row.graphql, what = row[2] }
  end
  return rows
end

-- An API server may live below a path (Rancher). Of Secrets those that are given a token when they are written, in YAML too,
-- whose tags say a text in Base64; what may be read of them, and which pods are entered, is RBAC's to say.
local KUBERNETES_MINT = post {
  { "/**/api/v1/namespaces/*/serviceaccounts/*/token", "a service account's token" },
  { "/**/apis/certificates.k8s.io/*/certificatesigningrequests", "a client certificate" },
}
KUBERNETES_MINT[#KUBERNETES_MINT + 1] = { path = "/**/api/v1/namespaces/*/secrets/**",
  body = { "kubernetes.io/service-account-token", "!!binary", "yaml.org" }, what = "a service account's token" }

-- Claude Code's remote control: the worker's token of a session, for the same host.
local ANTHROPIC_SEAL = { { method = "POST", path = "/v1/code/sessions/*/bridge", what = "a session's token", members = { "worker_jwt" },
  ttl = "expires_in", shape = "jwt", expired = 401, default = true } }

-- Xet, Hugging Face's store: its token comes in a header and in the body, and is for one repository ("Authentication and
-- Authorization" of its protocol). Old repositories have one name, the others two.
local HUGGINGFACE_MINT, HUGGINGFACE_SEAL = post { { "/api/spaces/*/*/jwt", "a token for a space", method = "GET" } }, {}
for _, path in ipairs { "/api/*/*/xet-read-token/**", "/api/*/*/*/xet-read-token/**", "/api/*/*/xet-write-token/**", "/api/*/*/*/xet-write-token/**" } do
  HUGGINGFACE_MINT[#HUGGINGFACE_MINT + 1] = { method = "GET", path = path, what = "a storage token" }
  HUGGINGFACE_SEAL[#HUGGINGFACE_SEAL + 1] = { method = "GET", path = path, what = "a storage token",
    members = { { "accessToken", "header=X-Xet-Access-Token" } }, ttl = "exp", hosts = { "*.xethub.hf.co" }, expired = 401, default = true }
end

local ANTHROPIC_MINT = post { { "/api/oauth/claude_cli/create_api_key", "an API key" } }

local GITHUB_MINT = post {
  { "/app/installations/*/access_tokens", "an installation's token" },
  { "/app-manifests/*/conversions", "an app with its private key" },
  { "/applications/*/token/scoped", "a user's token" },
  { "/applications/*/token", "a user's token", method = "PATCH" },
  { "/repos/*/*/actions/runners/registration-token", "a runner's token" },
  { "/repos/*/*/actions/runners/remove-token", "a runner's token" },
  { "/repos/*/*/actions/runners/generate-jitconfig", "a runner's configuration with its key" },
  { "/orgs/*/actions/runners/registration-token", "a runner's token" },
  { "/orgs/*/actions/runners/remove-token", "a runner's token" },
  { "/orgs/*/actions/runners/generate-jitconfig", "a runner's configuration with its key" },
  { "/enterprises/*/actions/runners/registration-token", "a runner's token" },
  { "/enterprises/*/actions/runners/remove-token", "a runner's token" },
  { "/enterprises/*/actions/runners/generate-jitconfig", "a runner's configuration with its key" },
  { "/repos/*/*/keys", "a deploy key" },
  { "/user/keys", "an SSH key of the account" },
  { "/copilot_internal/v2/token", "a Copilot token", method = { "GET", "POST" } },
}
-- What GitHub's own Link headers call them: a repository and an organization by their numbers. And an Enterprise host has
-- the API below /api/v3.
for i = 1, #GITHUB_MINT do
  local row = GITHUB_MINT[i]
  local path = row.path:gsub("^/repos/%*/", "/repositories/"):gsub("^/orgs/", "/organizations/")
  if path ~= row.path then GITHUB_MINT[#GITHUB_MINT + 1] = { method = row.method, path = path, what = row.what } end
end
for i = 1, #GITHUB_MINT do
  local row = GITHUB_MINT[i]
  GITHUB_MINT[#GITHUB_MINT + 1] = { method = row.method, path = "/api/v3" .. row.path, what = row.what }
end

-- Release assets (and where they were before), raw files with their LFS contents, LFS objects, gists, packages' files. GitHub's
-- documentation, "Self-hosted runners reference", has most of them.
local GITHUB_FILES = {
  "codeload.github.com", "release-assets.githubusercontent.com", "objects.githubusercontent.com", "objects-origin.githubusercontent.com",
  "github-releases.githubusercontent.com", "raw.githubusercontent.com", "media.githubusercontent.com",
  "github-cloud.githubusercontent.com", "github-cloud.s3.amazonaws.com", "gist.githubusercontent.com",
  "github-registry-files.githubusercontent.com", "pkg-containers.githubusercontent.com",
}

-- The connectors sign in with the key in the body of /session/v1/login-request, which is a mint, and then send a session's
-- token of their own in Authorization, where the type would put the key.
local SNOWFLAKE = "For the SQL API (/api/v2/statements), Cortex and other REST APIs. The connectors and drivers (snowflake-connector-python, "
  .. "JDBC, ODBC, Snowpark, SQLAlchemy) cannot work with it: they sign in for a session of their own, which is refused, and whose token would be "
  .. "replaced by this one. They need the credential itself, outside, or code that calls the SQL API."

local AWS_NOTE = "Clients sign with placeholders and Sallyport signs again. They need a region: AWS_REGION."

local SLACK_MINT = {
  { path = "/api/oauth.access", what = "a token" }, { path = "/api/oauth.v2.access", what = "a token" },
  { path = "/api/oauth.v2.user.access", what = "a token" },
  { path = "/api/oauth.v2.exchange", what = "a token" }, { path = "/api/tooling.tokens.rotate", what = "a token" },
  { path = "/api/openid.connect.token", what = "a token" },
  { path = "/api/apps.manifest.create", what = "an app with its secrets" },
}
-- Of oauth.v2.access; Slack's SDKs take an answer without `ok` for a failure.
local SLACK_MEMBERS = { "ok", "scope", "app_id", "bot_user_id", "team.id", "team.name", "enterprise.id", "enterprise.name",
  "is_enterprise_install", "authed_user.id" }
local GITLAB_MINT = post {
  { "/api/v4/user/personal_access_tokens", "a personal access token" },
  { "/api/v4/users/*/personal_access_tokens", "a personal access token" },
  { "/api/v4/personal_access_tokens/*/rotate", "a personal access token" },
  { "/api/v4/users/*/impersonation_tokens", "a token of another user" },
  { "/api/v4/projects/*/access_tokens", "a project's token" },
  { "/api/v4/projects/*/access_tokens/*/rotate", "a project's token" },
  { "/api/v4/groups/*/access_tokens", "a group's token" },
  { "/api/v4/groups/*/access_tokens/*/rotate", "a group's token" },
  { "/api/v4/groups/*/service_accounts/*/personal_access_tokens/**", "a service account's token" },
  { "/api/v4/projects/*/service_accounts/*/personal_access_tokens/**", "a service account's token" },
  { "/api/v4/projects/*/deploy_tokens", "a deploy token" },
  { "/api/v4/groups/*/deploy_tokens", "a deploy token" },
  { "/api/v4/projects/*/deploy_keys", "a deploy key" },
  { "/api/v4/projects/*/triggers", "a pipeline trigger's token" },
  { "/api/v4/projects/*/cluster_agents/*/tokens", "a cluster agent's token" },
  { "/api/v4/user/keys", "an SSH key of the account" },
  { "/api/v4/users/*/keys", "an SSH key of an account" },
  { "/api/v4/user/runners", "a runner's token" }, { "/api/v4/runners", "a runner's token" },
  { "/api/v4/code_suggestions/direct_access", "a token for the AI gateway" }, { "/api/v4/ai/*/direct_access", "a token for the AI gateway" },
  { "/api/v4/packages/conan/*/users/authenticate", "a token for packages", method = "GET" },
  { "/api/v4/projects/*/packages/conan/*/users/authenticate", "a token for packages", method = "GET" },
  { "/api/v4/runners/*/reset_authentication_token", "a runner's token" },
  { "/api/v4/runners/reset_registration_token", "a runner's token" },
  { "/api/v4/projects/*/runners/reset_registration_token", "a runner's token" },
  { "/api/v4/groups/*/runners/reset_registration_token", "a runner's token" },
  { "/api/v4/applications/**", "an OAuth application's secret" },
  { "/jwt/auth", "a registry's token", method = { "GET", "POST" } }, { "/oauth/token", "a token" },
  { "/api/graphql", "a token", graphql = { "AccessTokenCreate", "AccessTokenRotate", "clusterAgentTokenCreate",
                                           "runnersRegistrationTokenReset", "runnerCreate" } },
  { "/-/cable", "a token, by GraphQL in a WebSocket", method = { "GET", "POST" } },  -- its GraphqlChannel runs mutations
}

-- A project or group goes by its number, or by its whole name in one segment: acme%2Fsite (GitLab's REST documentation,
-- "Namespaced paths").
local GITLAB_WITHIN = { "/api/v4/projects/", "/api/v4/groups/", "/api/v4/namespaces/" }

-- On a server of one's own all of it may live below a path.
local function below(rows)
  for _, row in ipairs(rows) do row.path = "/**" .. row.path end
  return rows
end
below(GITLAB_MINT)

local GRAPH_MINT = post {
  { "/*/applications/*/addPassword", "an application's secret" }, { "/*/applications/*/addKey", "an application's key" },
  { "/*/servicePrincipals/*/addPassword", "a service principal's secret" },
  { "/*/servicePrincipals/*/addKey", "a service principal's key" },
  { "/*/servicePrincipals/*/addTokenSigningCertificate", "a signing certificate" },
  { "/*/$batch", "a secret, in a batch", body = { "addPassword", "addKey", "addTokenSigningCertificate" } },
}

local LINEAR_MINT = { { method = { "GET", "POST" }, path = "/graphql", graphql = { "apiKeyCreate" }, what = "an API key" } }

local list = {
  -- ---- model providers ---------------------------------------------------------------------------
  { name = "anthropic", title = "Anthropic: Claude API", words = { "claude", "sonnet", "opus", "haiku" }, type = "api_key", hosts = { "api.anthropic.com" },
    fields = { header = "x-api-key" }, env = { "ANTHROPIC_API_KEY" }, placeholder = "sk-ant-api03-{93:url}AA",
    carriers = { headers = { "x-api-key" } }, mint = ANTHROPIC_MINT,
    make = "https://console.anthropic.com/settings/keys",
    test = "https://api.anthropic.com/v1/models", test_headers = { ["anthropic-version"] = "2023-06-01" } },
  { name = "claude-code", title = "Anthropic: a Claude subscription's token for Claude Code", words = { "claude code", "claude max", "claude pro" }, type = "bearer",
    hosts = { "api.anthropic.com" }, env = { "CLAUDE_CODE_OAUTH_TOKEN" }, placeholder = "sk-ant-oat01-{93:url}AA",
    carriers = { headers = { "x-api-key" } }, mint = ANTHROPIC_MINT, seal = ANTHROPIC_SEAL,
    make = "claude setup-token", note = "The command prints a token that is valid for a year." },
  { name = "openai", title = "OpenAI", words = { "gpt", "chatgpt", "codex", "whisper", "dall-e" }, type = "bearer", hosts = { "api.openai.com" }, env = { "OPENAI_API_KEY" },
    placeholder = "sk-proj-{74:url}T3BlbkFJ{74:url}",
    seal = {
      { method = "POST", path = "/v1/realtime/client_secrets", what = "a client secret", members = { "value" }, ttl = "expires_at", prefix = "ek_" },
      { method = "POST", path = "/v1/realtime/sessions", what = "a client secret", members = { "client_secret/value" },
        ttl = "client_secret/expires_at", prefix = "ek_" },
      { method = "POST", path = "/v1/realtime/transcription_sessions", what = "a client secret", members = { "client_secret/value" },
        ttl = "client_secret/expires_at", prefix = "ek_" },
      { method = "POST", path = "/v1/realtime/translations/client_secrets", what = "a client secret", members = { "value" },
        ttl = "expires_at", prefix = "ek_" },
      { method = "POST", path = "/v1/chatkit/sessions", what = "a client secret", members = { "client_secret" }, ttl = "expires_at" },
    },
    mint = post {
      { "/v1/organization/admin_api_keys", "an admin key" },
      { "/v1/organization/projects/*/service_accounts", "a service account with its key" },
      { "/v1/realtime/client_secrets", "a client secret" },
      { "/v1/realtime/sessions", "a client secret" },
      { "/v1/realtime/transcription_sessions", "a client secret" },
      { "/v1/realtime/translations/client_secrets", "a client secret" },
      { "/v1/chatkit/sessions", "a client secret" },
    },
    make = "https://platform.openai.com/api-keys", test = "https://api.openai.com/v1/models" },
  { name = "azure-openai", title = "Azure OpenAI", words = { "gpt", "azure ai", "microsoft" }, type = "api_key", hosts = { "{resource}.openai.azure.com" },
    fields = { header = "api-key" }, env = { "AZURE_OPENAI_API_KEY" }, placeholder = "{32:hex}",
    carriers = { headers = { "api-key" }, query = { "api-key" } },
    mint = post {
      { "/openai/realtimeapi/sessions", "a client secret" }, { "/openai/v1/realtime/client_secrets", "a client secret" },
      { "/openai/v1/realtime/translations/client_secrets", "a client secret" },
    },
    make = "https://portal.azure.com", test = "https://{host}/openai/models?api-version=2024-10-21",
    note = "The resource's page in the portal has its keys and endpoint under Resource Management." },
  { name = "gemini", title = "Google: Gemini API", words = { "google ai studio", "bard", "nano banana" }, type = "api_key", hosts = { "generativelanguage.googleapis.com" },
    fields = { header = "x-goog-api-key" }, env = { "GEMINI_API_KEY" }, placeholder = "AIza{35:url}",
    carriers = { headers = { "x-goog-api-key" }, query = { "key", "access_token", "$httpHeaders" } },
    mint = post { { "/*/auth_tokens", "a token for the Live API" } },
    make = "https://aistudio.google.com/apikey", test = "https://generativelanguage.googleapis.com/v1beta/models" },
  { name = "mistral", title = "Mistral", type = "bearer", hosts = { "api.mistral.ai" }, env = { "MISTRAL_API_KEY" },
    placeholder = "{32}", make = "https://console.mistral.ai/api-keys", test = "https://api.mistral.ai/v1/models" },
  { name = "groq", title = "Groq", type = "bearer", hosts = { "api.groq.com" }, env = { "GROQ_API_KEY" },
    placeholder = "gsk_{52}", make = "https://console.groq.com/keys", test = "https://api.groq.com/openai/v1/models" },
  { name = "xai", title = "xAI: Grok", words = { "twitter" }, type = "bearer", hosts = { "api.x.ai" }, env = { "XAI_API_KEY" },
    placeholder = "xai-{80}", mint = post { { "/v1/realtime/client_secrets", "a client secret" } },
    make = "https://console.x.ai", test = "https://api.x.ai/v1/models" },
  { name = "deepseek", title = "DeepSeek", type = "bearer", hosts = { "api.deepseek.com" }, env = { "DEEPSEEK_API_KEY" },
    placeholder = "sk-{32:hex}", make = "https://platform.deepseek.com/api_keys", test = "https://api.deepseek.com/models" },
  { name = "openrouter", title = "OpenRouter", type = "bearer", hosts = { "openrouter.ai" }, paths = { "/api" },
    env = { "OPENROUTER_API_KEY" }, placeholder = "sk-or-v1-{64:hex}",
    mint = post { { "/api/v1/keys", "an API key" }, { "/api/v1/auth/keys/**", "an API key" } },
    make = "https://openrouter.ai/keys", test = "https://openrouter.ai/api/v1/key" },
  { name = "cohere", title = "Cohere", type = "bearer", hosts = { "api.cohere.com", "api.cohere.ai" },
    env = { "CO_API_KEY", "COHERE_API_KEY" }, placeholder = "{40}",
    make = "https://dashboard.cohere.com/api-keys", test = "https://api.cohere.com/v1/models" },
  { name = "together", title = "Together AI", type = "bearer", hosts = { "api.together.xyz", "api.together.ai" },
    env = { "TOGETHER_API_KEY" }, placeholder = "{64:hex}",
    make = "https://api.together.ai/settings/api-keys", test = "https://api.together.xyz/v1/models" },
  { name = "perplexity", title = "Perplexity", type = "bearer", hosts = { "api.perplexity.ai" },
    env = { "PERPLEXITY_API_KEY" }, placeholder = "pplx-{48}",
    mint = post { { "/generate_auth_token", "an API key" } }, make = "https://www.perplexity.ai/settings/api" },
  { name = "huggingface", title = "Hugging Face", words = { "hf", "transformers" }, type = "bearer", hosts = { "huggingface.co", "router.huggingface.co" },
    env = { "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN" }, placeholder = "hf_{34:alpha}",
    mint = HUGGINGFACE_MINT, seal = HUGGINGFACE_SEAL,
    with = { HF_XET_CLIENT_LEGACY_DIRECT_XORB_UPLOAD = "1" },   -- else it writes to hosts that nobody knows before
    without_mint = { HF_HUB_DISABLE_XET = "1" },
    files = { "cdn-lfs.huggingface.co", "cdn-lfs.hf.co", "cdn-lfs-us-1.huggingface.co", "cdn-lfs-us-1.hf.co", "cdn-lfs-eu-1.huggingface.co",
      "cdn-lfs-eu-1.hf.co", "cas-bridge.xethub.hf.co", "transfer.xethub.hf.co", "us.gcp.cdn.hf.co", "us.aws.cdn.hf.co" },
    make = "https://huggingface.co/settings/tokens", test = "https://huggingface.co/api/whoami-v2" },
  { name = "replicate", title = "Replicate", words = { "flux" }, type = "bearer", hosts = { "api.replicate.com" },
    env = { "REPLICATE_API_TOKEN" }, placeholder = "r8_{37}",
    make = "https://replicate.com/account/api-tokens", test = "https://api.replicate.com/v1/account" },
  { name = "elevenlabs", title = "ElevenLabs", type = "api_key", hosts = { "api.elevenlabs.io" },
    fields = { header = "xi-api-key" }, env = { "ELEVENLABS_API_KEY" }, placeholder = "sk_{48:hex}",
    carriers = { headers = { "xi-api-key" } },
    mint = post {
      { "/v1/single-use-token/*", "a single-use token" },
      { "/v1/service-accounts/*/api-keys", "an API key" },
      { "/v1/convai/conversation/get-signed-url", "a signed URL for a conversation", method = "GET" },
      { "/v1/convai/conversation/token", "a conversation's token", method = "GET" },
    },
    make = "https://elevenlabs.io/app/settings/api-keys", test = "https://api.elevenlabs.io/v1/user" },
  { name = "fireworks", title = "Fireworks AI", type = "bearer", hosts = { "api.fireworks.ai" },
    env = { "FIREWORKS_API_KEY" }, placeholder = "fw_{24}",
    mint = post { { "/v1/accounts/*/users/*/apiKeys", "an API key" } },
    make = "https://fireworks.ai/account/api-keys", test = "https://api.fireworks.ai/inference/v1/models" },
  { name = "cerebras", title = "Cerebras", type = "bearer", hosts = { "api.cerebras.ai" }, env = { "CEREBRAS_API_KEY" },
    placeholder = "csk-{48}", make = "https://cloud.cerebras.ai", test = "https://api.cerebras.ai/v1/models" },
  { name = "voyage", title = "Voyage AI", type = "bearer", hosts = { "api.voyageai.com" }, env = { "VOYAGE_API_KEY" },
    placeholder = "pa-{43:url}", make = "https://dash.voyageai.com" },
  { name = "deepgram", title = "Deepgram", type = "api_key", hosts = { "api.deepgram.com" },
    fields = { header = "authorization", prefix = "Token " }, env = { "DEEPGRAM_API_KEY" }, placeholder = "{40:hex}",
    mint = post { { "/v1/projects/*/keys", "an API key" }, { "/v1/auth/grant", "a short-lived token" } },
    make = "https://console.deepgram.com", test = "https://api.deepgram.com/v1/projects" },
  { name = "assemblyai", title = "AssemblyAI", type = "api_key", hosts = { "api.assemblyai.com", "streaming.assemblyai.com" },
    fields = { header = "authorization" }, env = { "ASSEMBLYAI_API_KEY" }, placeholder = "{32:hex}",
    mint = post { { "/v3/token", "a short-lived token", method = "GET" }, { "/v2/realtime/token", "a short-lived token" } },
    make = "https://www.assemblyai.com/dashboard", test = "https://api.assemblyai.com/v2/transcript?limit=1" },
  { name = "stability", title = "Stability AI", words = { "stable diffusion" }, type = "bearer", hosts = { "api.stability.ai" },
    env = { "STABILITY_API_KEY" }, placeholder = "sk-{48}",
    make = "https://platform.stability.ai/account/keys", test = "https://api.stability.ai/v1/user/account" },
  { name = "langsmith", title = "LangSmith", type = "api_key", hosts = { "api.smith.langchain.com" },
    fields = { header = "x-api-key" }, env = { "LANGSMITH_API_KEY", "LANGCHAIN_API_KEY" },
    placeholder = "lsv2_pt_{32:hex}_{10:hex}", carriers = { headers = { "x-api-key" } },
    mint = post { { "/api/v1/api-key/**", "an API key" } },
    make = "https://smith.langchain.com/settings", test = "https://api.smith.langchain.com/api/v1/sessions?limit=1" },
  { name = "pinecone", title = "Pinecone", type = "api_key", hosts = { "*.pinecone.io" },
    fields = { header = "api-key" }, env = { "PINECONE_API_KEY" }, placeholder = "pcsk_{6}_{62}",
    carriers = { headers = { "api-key" } }, mint = post { { "/admin/projects/*/api-keys", "an API key" } },
    make = "https://app.pinecone.io", test = "https://api.pinecone.io/indexes" },

  -- ---- search and reading ------------------------------------------------------------------------
  { name = "tavily", title = "Tavily", words = { "web search" }, type = "bearer", hosts = { "api.tavily.com" }, env = { "TAVILY_API_KEY" },
    placeholder = "tvly-{32}", mint = post { { "/generate-keys", "an API key" } },
    make = "https://app.tavily.com", test = "https://api.tavily.com/usage" },
  { name = "brave-search", title = "Brave Search", words = { "web search" }, type = "api_key", hosts = { "api.search.brave.com" },
    fields = { header = "x-subscription-token" }, env = { "BRAVE_API_KEY" }, placeholder = "BSA{28:url}",
    carriers = { headers = { "x-subscription-token" } },
    make = "https://api-dashboard.search.brave.com", test = "https://api.search.brave.com/res/v1/web/search?q=test&count=1" },
  { name = "serpapi", title = "SerpApi", words = { "google search", "web search" }, type = "body_parameter", hosts = { "serpapi.com" },
    fields = { name = "api_key", ["in"] = "query" }, env = { "SERPAPI_API_KEY", "SERPAPI_KEY" }, placeholder = "{64:hex}",
    carriers = { query = { "api_key" } },
    mint = { { path = "/account", what = "the account's own key" }, { path = "/account.json", what = "the account's own key" } },
    make = "https://serpapi.com/manage-api-key" },
  { name = "exa", title = "Exa", words = { "web search" }, type = "api_key", hosts = { "api.exa.ai" }, fields = { header = "x-api-key" },
    env = { "EXA_API_KEY" }, placeholder = UUID, carriers = { headers = { "x-api-key" } },
    make = "https://dashboard.exa.ai/api-keys" },
  { name = "firecrawl", title = "Firecrawl", words = { "scraping", "crawler" }, type = "bearer", hosts = { "api.firecrawl.dev" },
    env = { "FIRECRAWL_API_KEY" }, placeholder = "fc-{32:hex}",
    make = "https://www.firecrawl.dev/app/api-keys", test = "https://api.firecrawl.dev/v1/team/credit-usage" },
  { name = "algolia", title = "Algolia", type = "api_key", hosts = { "{application}.algolia.net" },
    fields = { header = "x-algolia-api-key" }, env = { "ALGOLIA_API_KEY" }, placeholder = "{32:hex}",
    carriers = { headers = { "x-algolia-api-key" }, query = { "x-algolia-api-key" } },
    mint = { { path = "/1/keys/**", what = "an API key" } },
    make = "https://dashboard.algolia.com/account/api-keys", test = "https://{host}/1/indexes",
    note = "Name each host that the client uses: APP.algolia.net, APP-dsn.algolia.net. Clients send the application's id themselves." },

  -- ---- code and building -------------------------------------------------------------------------
  { name = "github", title = "GitHub: API, with a token", words = { "gh", "git", "issues", "pull requests" }, type = "bearer", hosts = { "api.github.com", "uploads.github.com" },
    env = { "GH_TOKEN", "GITHUB_TOKEN" }, placeholder = "ghp_{36}", carriers = { query = { "access_token" } },
    mint = GITHUB_MINT, files = GITHUB_FILES, make = "https://github.com/settings/personal-access-tokens", test = "https://api.github.com/user",
    note = "git itself goes to github.com: preset github-git, with the same token. Logs and artifacts of Actions lie at "
      .. "productionresultssaN.blob.core.windows.net, N from 0 to 19: sallyport domain add." },
  { name = "copilot", title = "GitHub Copilot: its CLI and API", type = "bearer",
    hosts = { "*.githubcopilot.com", "copilot-proxy.githubusercontent.com", "api.github.com" },
    env = { "COPILOT_GITHUB_TOKEN" }, placeholder = "github_pat_{22}_{59}", carriers = { query = { "access_token" } },
    mint = GITHUB_MINT,
    seal = { { method = { "GET", "POST" }, path = "/copilot_internal/v2/token", what = "a Copilot token", members = { "token" }, ttl = "expires_at" } },
    make = "https://github.com/settings/personal-access-tokens/new", test = "https://api.github.com/copilot_internal/user",
    note = "A fine-grained token with the permission Copilot Requests, or one of an OAuth or GitHub App (gho_, ghu_): classic ones (ghp_) are "
      .. "refused there. Editors trade theirs for a further token, which is refused here: mint=seal gives them one that opens here alone." },
  { name = "github-git", title = "GitHub: git over HTTPS, with a token", words = { "clone", "push" }, type = "basic",
    hosts = { "github.com", "codeload.github.com" }, fields = { username = "x-access-token" },
    ask = { password = "a personal access token" }, carriers = { headers = { "cookie" } },
    mint = { { path = "/login/oauth/access_token", what = "a token" }, { path = "/login/device/code", what = "a login" } },
    files = GITHUB_FILES, make = "https://github.com/settings/personal-access-tokens" },
  { name = "github-app", title = "GitHub: an app's installation, for API and git", type = "github_app",
    hosts = { "api.github.com", "uploads.github.com", "github.com", "codeload.github.com", "raw.githubusercontent.com" },
    env = { "GH_TOKEN", "GITHUB_TOKEN" }, placeholder = "ghs_{36}", carriers = { query = { "access_token" } },
    files = GITHUB_FILES,
    ask = { app_id = "the app's number, on its settings page", private_key = "the .pem file that its settings page makes" },
    make = "https://github.com/settings/apps",
    note = "Say which installation: installation_id, the number in the URL of its page, or account." },
  { name = "gitlab", title = "GitLab: API", words = { "glab" }, type = "bearer", hosts = { "gitlab.com" }, paths = { "/api" },
    env = { "GITLAB_TOKEN" }, placeholder = "glpat-{20:url}",
    carriers = { headers = { "private-token", "job-token", "deploy-token", "cookie" },
                 query = { "private_token", "access_token", "job_token" } },
    within = GITLAB_WITHIN, mint = GITLAB_MINT, make = "https://gitlab.com/-/user_settings/personal_access_tokens",
    test = "https://gitlab.com/api/v4/user", note = "Your own server: --host. git goes by preset gitlab-git." },
  { name = "gitlab-git", title = "GitLab: git over HTTPS", words = { "clone", "push" }, type = "basic", hosts = { "gitlab.com" },
    fields = { username = "oauth2" }, ask = { password = "a personal access token with read_repository or write_repository" },
    carriers = { headers = { "private-token", "cookie" }, query = { "private_token", "access_token" } },
    mint = GITLAB_MINT, make = "https://gitlab.com/-/user_settings/personal_access_tokens" },
  { name = "bitbucket", title = "Bitbucket Cloud", words = { "atlassian" }, type = "basic", hosts = { "api.bitbucket.org" },
    ask = { username = "your Atlassian e-mail address", password = "an API token with Bitbucket scopes" },
    mint = post { { "/2.0/repositories/*/*/deploy-keys", "a deploy key" }, { "/2.0/users/*/ssh-keys", "an SSH key of the account" } },
    make = "https://id.atlassian.com/manage-profile/security/api-tokens", test = "https://api.bitbucket.org/2.0/user" },
  { name = "circleci", title = "CircleCI", words = { "ci" }, type = "api_key", hosts = { "circleci.com" }, paths = { "/api" },
    fields = { header = "circle-token" }, env = { "CIRCLE_TOKEN" }, placeholder = "CCIPAT_{22}_{40:hex}",
    carriers = { headers = { "circle-token" }, query = { "circle-token" } },
    mint = post { { "/api/v2/project/*/*/*/checkout-key", "a checkout key" }, { "/api/v1.1/project/*/*/*/checkout-key", "a checkout key" } },
    make = "https://app.circleci.com/settings/user/tokens", test = "https://circleci.com/api/v2/me" },
  { name = "buildkite", title = "Buildkite", words = { "ci" }, type = "bearer", hosts = { "api.buildkite.com" },
    env = { "BUILDKITE_API_TOKEN" }, placeholder = "bkua_{40:hex}",
    mint = post { { "/v2/organizations/*/clusters/*/tokens", "an agent's token" } },
    make = "https://buildkite.com/user/api-access-tokens", test = "https://api.buildkite.com/v2/access-token" },
  { name = "terraform", title = "HCP Terraform", words = { "hashicorp", "terraform cloud" }, type = "bearer", hosts = { "app.terraform.io" },
    env = { "TFE_TOKEN", "TF_TOKEN_app_terraform_io" }, placeholder = "{14}.atlasv1.{67}",
    mint = post {
      { "/api/v2/users/*/authentication-tokens", "a user's token" },
      { "/api/v2/organizations/*/authentication-token", "an organization's token" },
      { "/api/v2/teams/*/authentication-token", "a team's token" },
      { "/api/v2/teams/*/authentication-tokens", "a team's token" },
      { "/api/v2/agent-pools/*/authentication-tokens", "an agent's token" },
    },
    make = "https://app.terraform.io/app/settings/tokens", test = "https://app.terraform.io/api/v2/account/details" },
  { name = "sentry", title = "Sentry", type = "bearer", hosts = { "sentry.io", "us.sentry.io", "de.sentry.io" },
    paths = { "/api" }, env = { "SENTRY_AUTH_TOKEN" }, placeholder = "sntryu_{64:hex}", carriers = { headers = { "cookie" } },
    mint = post {
      { "/api/0/organizations/*/org-auth-tokens", "an organization's token" },
      { "/api/0/api-tokens", "a token" },
      { "/api/0/sentry-app-installations/*/authorizations", "an integration's token" },
    },
    make = "https://sentry.io/settings/account/api/auth-tokens/", test = "https://sentry.io/api/0/organizations/" },

  -- ---- clouds and hosting ------------------------------------------------------------------------
  { name = "aws", title = "Amazon Web Services", words = { "s3", "ec2", "lambda", "dynamodb", "bedrock", "amazon" }, type = "aws_sigv4", hosts = { "*.amazonaws.com", "*.api.aws" },
    ask = { access_key_id = "AKIA… or, with a session token, ASIA…", secret_access_key = "its secret" },
    make = "https://console.aws.amazon.com/iam/home#/security_credentials",
    test = "https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
    note = AWS_NOTE .. " China and the European Sovereign Cloud: aws-china, aws-europe." },
  { name = "aws-china", title = "Amazon Web Services in China", words = { "s3", "amazon" }, type = "aws_sigv4", hosts = { "*.amazonaws.com.cn", "*.api.amazonwebservices.com.cn" },
    ask = { access_key_id = "AKIA… or, with a session token, ASIA…", secret_access_key = "its secret" },
    make = "https://console.amazonaws.cn/iam/home#/security_credentials",
    test = "https://sts.cn-north-1.amazonaws.com.cn/?Action=GetCallerIdentity&Version=2011-06-15",
    note = AWS_NOTE },
  { name = "aws-europe", title = "AWS European Sovereign Cloud", words = { "amazon" }, type = "aws_sigv4", hosts = { "*.amazonaws.eu", "*.api.amazonwebservices.eu" },
    ask = { access_key_id = "AKIA… or, with a session token, ASIA…", secret_access_key = "its secret" },
    make = "https://console.amazonaws-eusc.eu/iam/home#/security_credentials",
    test = "https://sts.eusc-de-east-1.amazonaws.eu/?Action=GetCallerIdentity&Version=2011-06-15",
    note = AWS_NOTE },
  { name = "google", title = "Google Cloud, with a service account", words = { "gcp", "gcloud", "bigquery", "cloud storage", "gcs", "vertex", "firebase" }, type = "gcp_access_token", hosts = { "*.googleapis.com" },
    carriers = { headers = { "x-goog-api-key" }, query = { "key", "access_token", "oauth_token", "$httpHeaders", "$httpMethod", "$req" } },
    env = { "CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN" }, placeholder = "ya29.c.{160:url}",
    ask = { key = "the service account's key file, JSON" },
    make = "https://console.cloud.google.com/iam-admin/serviceaccounts",
    test = "https://cloudresourcemanager.googleapis.com/v1/projects?pageSize=1" },
  { name = "microsoft-graph", title = "Microsoft Graph, as an application", words = { "office 365", "m365", "sharepoint", "teams", "outlook", "entra", "azure ad" }, type = "oauth_client_credentials",
    hosts = { "graph.microsoft.com" }, fields = { scopes = { "https://graph.microsoft.com/.default" }, auth_method = "post" },
    ask = { token_url = "https://login.microsoftonline.com/TENANT/oauth2/v2.0/token, with your tenant's id",
            client_id = "the application's id", client_secret = "a client secret's value" },
    mint = GRAPH_MINT, files = { "login.microsoftonline.com" },
    make = "https://entra.microsoft.com", test = "https://graph.microsoft.com/v1.0/organization" },
  { name = "kubernetes", title = "Kubernetes: a cluster's API server, with a service account's token", words = { "k8s", "kubectl" }, type = "bearer",
    hosts = { "{server}" }, file = "kubeconfig", mint = KUBERNETES_MINT, make = "kubectl create token NAME --duration 720h",
    note = "--port 6443 where the server has it, ca=@FILE its own root; then `credential sandbox-file`. EKS, GKE, AKS: the presets "
      .. "of those names. More: sallyport help kubernetes" },
  { name = "eks", title = "Amazon EKS, with AWS keys", words = { "k8s", "kubectl" }, type = "aws_eks", hosts = { "{server}" }, file = "kubeconfig",
    ask = { access_key_id = "AKIA…, or ASIA… with session_token", secret_access_key = "the key's secret", cluster = "the cluster's name",
            region = "the cluster's region" },
    make = "https://console.aws.amazon.com/iam/home#/security_credentials", test = "https://{host}/version",
    note = "In the place of `aws eks get-token`. --host is the server of the cluster's kubeconfig; ca=@FILE its "
      .. "certificate-authority-data, decoded. More: sallyport help kubernetes" },
  { name = "gke", title = "Google Kubernetes Engine, with a service account", words = { "k8s", "kubectl" }, type = "gcp_access_token", hosts = { "{server}" },
    fields = { scopes = { "https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/userinfo.email" } },
    ask = { key = "the service account's key file, JSON" }, file = "kubeconfig", mint = KUBERNETES_MINT,
    make = "https://console.cloud.google.com/iam-admin/serviceaccounts", test = "https://{host}/version",
    note = "In the place of gke-gcloud-auth-plugin. --host is the server of the cluster's kubeconfig, an address or ….gke.goog; "
      .. "ca=@FILE its certificate-authority-data, decoded. More: sallyport help kubernetes" },
  { name = "aks", title = "Azure Kubernetes Service, as an application of Entra ID", words = { "k8s", "kubectl" }, type = "oauth_client_credentials",
    hosts = { "{server}" }, fields = { scopes = { "6dae42f8-4368-4678-94ff-3960e28e3630/.default" }, auth_method = "post" },
    ask = { token_url = "https://login.microsoftonline.com/TENANT/oauth2/v2.0/token, with your tenant's id",
            client_id = "the application's id", client_secret = "a client secret's value" },
    file = "kubeconfig", mint = KUBERNETES_MINT, make = "https://entra.microsoft.com", test = "https://{host}/version",
    note = "In the place of kubelogin; the scope is that of AKS's own application, for every tenant. ca=@FILE is the cluster's "
      .. "certificate-authority-data, decoded. More: sallyport help kubernetes" },
  { name = "cloudflare", title = "Cloudflare", words = { "workers", "r2", "dns", "wrangler" }, type = "bearer", hosts = { "api.cloudflare.com" },
    env = { "CLOUDFLARE_API_TOKEN", "CF_API_TOKEN" }, placeholder = "{40:url}",
    seal = { { method = "GET", path = "/client/v4/accounts/*/pages/projects/*/upload-token", what = "an upload's token",
      members = { "result/jwt" }, shape = "jwt", default = true } },   -- of Pages; wrangler reads its end
    carriers = { headers = { "x-auth-key", "x-auth-email", "x-auth-user-service-key" } },
    mint = post {
      { "/client/v4/user/tokens", "an API token" },
      { "/client/v4/accounts/*/tokens", "an API token" },
      { "/client/v4/user/tokens/*/value", "an API token", method = "PUT" },
      { "/client/v4/accounts/*/tokens/*/value", "an API token", method = "PUT" },
      { "/client/v4/accounts/*/access/service_tokens", "a service token" },
      { "/client/v4/accounts/*/access/service_tokens/*/rotate", "a service token" },
      { "/client/v4/zones/*/access/service_tokens", "a service token" },
      { "/client/v4/accounts/*/r2/temp-access-credentials", "keys for R2" },
      { "/client/v4/accounts/*/cfd_tunnel/*/token", "a tunnel's token", method = "GET" },
      { "/client/v4/accounts/*/cfd_tunnel", "a tunnel with its token" },
      { "/client/v4/certificates", "an origin certificate" },
    },
    make = "https://dash.cloudflare.com/profile/api-tokens", test = "https://api.cloudflare.com/client/v4/user/tokens/verify" },
  { name = "vercel", title = "Vercel", words = { "next.js" }, type = "bearer", hosts = { "api.vercel.com" }, env = { "VERCEL_TOKEN" },
    placeholder = "{24}",
    mint = post { { "/*/user/tokens", "a token" }, { "/*/projects/*/protection-bypass", "a bypass secret", method = "PATCH" } },
    make = "https://vercel.com/account/settings/tokens", test = "https://api.vercel.com/v2/user" },
  { name = "netlify", title = "Netlify", type = "bearer", hosts = { "api.netlify.com" }, env = { "NETLIFY_AUTH_TOKEN" },
    placeholder = "nfp_{36}", carriers = { query = { "access_token" } },
    mint = post {
      { "/api/v1/oauth/tickets/*/exchange", "a token" }, { "/api/v1/deploy_keys", "a deploy key" },
      { "/api/v1/sites/*/build_hooks", "a build hook" },
    },
    make = "https://app.netlify.com/user/applications", test = "https://api.netlify.com/api/v1/user" },
  { name = "fly", title = "Fly.io", type = "bearer", hosts = { "api.machines.dev", "api.fly.io" }, env = { "FLY_API_TOKEN" },
    placeholder = "fm2_{120}", mint = post {
      { "/v1/tokens/**", "a token" }, { "/v1/apps/*/deploy_token", "a deploy token" },
      { "/graphql", "a token", host = "api.fly.io",
        graphql = { "createLimitedAccessToken", "createDelegatedWireGuardToken", "addWireGuardPeer" } },
    },
    make = "https://fly.io/dashboard/personal/tokens", test = "https://api.machines.dev/v1/apps?org_slug=personal" },
  { name = "heroku", title = "Heroku", type = "bearer", hosts = { "api.heroku.com" }, env = { "HEROKU_API_KEY" },
    placeholder = "HRKU-AA{58:url}",
    mint = post {
      { "/oauth/authorizations", "an authorization with its token" }, { "/oauth/tokens", "a token" },
      { "/oauth/authorizations/*/actions/regenerate-tokens", "a token" }, { "/oauth/clients", "a client with its secret" },
    },
    make = "https://dashboard.heroku.com/account", test = "https://api.heroku.com/account",
    test_headers = { accept = "application/vnd.heroku+json; version=3" } },
  { name = "digitalocean", title = "DigitalOcean", words = { "droplets" }, type = "bearer", hosts = { "api.digitalocean.com" },
    env = { "DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_TOKEN" }, placeholder = "dop_v1_{64:hex}",
    mint = post {
      { "/v2/spaces/keys", "a key for Spaces" },
      { "/v2/account/keys", "an SSH key of the account" },
      { "/v2/kubernetes/clusters/*/kubeconfig", "a cluster's credentials", method = "GET" },
      { "/v2/kubernetes/clusters/*/credentials", "a cluster's credentials", method = "GET" },
      { "/v2/registry/docker-credentials", "a registry's credentials", method = "GET" },
      { "/v2/gen-ai/agents/*/api_keys", "an API key" },
      { "/v2/gen-ai/models/api_keys", "an API key" },
      { "/v2/databases/*/users", "a database user with its password" },
      { "/v2/databases/*/users/*/reset_auth", "a database password" },
    },
    make = "https://cloud.digitalocean.com/account/api/tokens", test = "https://api.digitalocean.com/v2/account" },
  { name = "render", title = "Render", type = "bearer", hosts = { "api.render.com" }, env = { "RENDER_API_KEY" },
    placeholder = "rnd_{28}",
    mint = post {
      { "/v1/postgres/*/connection-info", "a database's password", method = "GET" },
      { "/v1/key-value/*/connection-info", "a store's password", method = "GET" },
    },
    make = "https://dashboard.render.com/u/settings#api-keys", test = "https://api.render.com/v1/owners" },
  { name = "supabase", title = "Supabase: management API", words = { "postgres" }, type = "bearer", hosts = { "api.supabase.com" },
    env = { "SUPABASE_ACCESS_TOKEN" }, placeholder = "sbp_{40:hex}",
    mint = {
      { path = "/v1/projects/*/api-keys/**", what = "a project's keys" },
      { method = "POST", path = "/v1/projects/*/cli/login-role", what = "a database login" },
      { method = "POST", path = "/v1/oauth/token", what = "a token" },
    },
    make = "https://supabase.com/dashboard/account/tokens", test = "https://api.supabase.com/v1/projects" },
  { name = "neon", title = "Neon", words = { "postgres" }, type = "bearer", hosts = { "console.neon.tech" }, paths = { "/api" },
    env = { "NEON_API_KEY" }, placeholder = "napi_{64}", carriers = { headers = { "cookie" } },
    mint = post {
      { "/api/v2/api_keys", "an API key" },
      { "/api/v2/organizations/*/api_keys", "an API key" },
      { "/api/v2/projects/*/connection_uri", "a database's password", method = "GET" },
      { "/api/v2/projects/*/branches/*/roles/*/reveal_password", "a database's password", method = "GET" },
      { "/api/v2/projects/*/branches/*/roles/*/reset_password", "a database's password" },
    },
    make = "https://console.neon.tech/app/settings/api-keys", test = "https://console.neon.tech/api/v2/users/me" },
  { name = "snowflake", title = "Snowflake, with a programmatic access token", words = { "data warehouse" }, type = "bearer",
    hosts = { "{account}.snowflakecomputing.com" }, headers = { ["x-snowflake-authorization-token-type"] = "PROGRAMMATIC_ACCESS_TOKEN" },
    env = { "SNOWFLAKE_TOKEN" }, placeholder = "{160:url}",
    mint = post {
      { "/session/v1/login-request", "a session" }, { "/session/token-request", "a session" }, { "/oauth/token-request", "a token" },
    },
    make = "https://docs.snowflake.com/en/user-guide/programmatic-access-tokens",
    note = SNOWFLAKE .. " SQL that makes tokens goes to one path with all other SQL: what the token's role may do is the limit." },

  { name = "snowflake-key", title = "Snowflake, with a key pair", words = { "data warehouse" }, type = "jwt", hosts = { "{account}.snowflakecomputing.com" },
    fields = { lifetime = 3600 }, headers = { ["x-snowflake-authorization-token-type"] = "KEYPAIR_JWT" },
    ask = { private_key = "the key pair's private key, PEM", ["claims.sub"] = "MYORG-ACCOUNT.USER, in capitals",
            ["claims.iss"] = "the same with .${fingerprint} behind it, in single quotes for the shell" },
    mint = post {
      { "/session/v1/login-request", "a session" }, { "/session/token-request", "a session" }, { "/oauth/token-request", "a token" },
    },
    make = "https://docs.snowflake.com/en/user-guide/key-pair-auth", note = SNOWFLAKE },
  { name = "app-store-connect", title = "Apple: App Store Connect", words = { "testflight", "ios" }, type = "jwt", hosts = { "api.appstoreconnect.apple.com" },
    fields = { lifetime = 1200, claims = { aud = "appstoreconnect-v1" } },
    ask = { private_key = "the AuthKey_….p8 file", key_id = "the key's id", ["claims.iss"] = "the issuer's id" },
    mint = post { { "/v1/certificates", "a signing certificate" } },
    make = "https://appstoreconnect.apple.com/access/integrations/api", test = "https://api.appstoreconnect.apple.com/v1/apps?limit=1" },

  -- ---- container registries ------------------------------------------------------------------------
  -- Clients log in with any password: the type says where the real one goes, and seals what comes back for it.
  { name = "docker-hub", title = "Docker Hub: images", words = { "dockerhub" }, type = "registry",
    hosts = { "registry-1.docker.io", "index.docker.io", "auth.docker.io" }, paths = { "/v2", "/token" },
    ask = { username = "your Docker id", password = "a personal access token" },
    files = { "production.cloudflare.docker.com", "production.cloudfront.docker.com",
      "docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com" },
    make = "https://app.docker.com/settings/personal-access-tokens", test = "https://auth.docker.io/token?service=registry.docker.io" },
  { name = "ghcr", title = "GitHub: images (ghcr.io)", words = { "docker", "containers" }, type = "registry", hosts = { "ghcr.io" }, paths = { "/v2", "/token" },
    ask = { username = "your GitHub name", password = "a personal access token (classic) with read:packages or write:packages" },
    files = { "pkg-containers.githubusercontent.com" }, make = "https://github.com/settings/tokens", test = "https://ghcr.io/token?service=ghcr.io" },
  -- Its blob hosts lie below it, and clients in Go then go on showing the bearer when they are redirected.
  { name = "quay", title = "Quay.io: images", type = "registry", hosts = { "quay.io" },
    seal = { { method = { "GET", "POST" }, path = "/v2/auth", what = "a registry's bearer", members = { "token" }, ttl = "expires_in",
      hosts = { "*.quay.io" }, expired = 401, default = true } },
    ask = { username = "a robot account, ORG+NAME, or yours", password = "its token, or an encrypted password" },
    files = { "cdn.quay.io", "cdn01.quay.io", "cdn02.quay.io", "cdn03.quay.io", "cdn04.quay.io", "cdn05.quay.io", "cdn06.quay.io",
      "quayio-production-s3.s3.amazonaws.com" },
    make = "https://quay.io/organization/ORG?tab=robots", test = "https://quay.io/v2/auth?service=quay.io" },
  { name = "gitlab-registry", title = "GitLab: images", type = "registry", hosts = { "registry.gitlab.com", "gitlab.com" },
    paths = { "/v2", "/jwt/auth" },
    ask = { username = "your GitLab name, or a deploy token's", password = "a token with read_registry or write_registry" },
    files = { "cdn.registry.gitlab-static.net" }, make = "https://gitlab.com/-/user_settings/personal_access_tokens", test = "https://gitlab.com/jwt/auth?service=container_registry",
    note = "A GitLab of your own: --host for its registry and for itself." },
  { name = "gar", title = "Google Artifact Registry: images", words = { "gcr", "docker" }, type = "registry", hosts = { "{location}-docker.pkg.dev" },
    paths = { "/v2", "/artifacts-downloads", "/artifacts-uploads" }, fields = { username = "_json_key" },
    ask = { password = "the service account's key file, JSON: password=@key.json" },
    make = "https://console.cloud.google.com/iam-admin/serviceaccounts", test = "https://{host}/v2/token?service={host}",
    note = "gcr.io and its regions are served by it: --host gcr.io." },
  { name = "acr", title = "Azure Container Registry", words = { "docker" }, type = "registry", hosts = { "{registry}.azurecr.io" },
    paths = { "/v2", "/oauth2" },
    ask = { username = "a service principal's application id, or a token's name", password = "its secret, or the token's password" },
    make = "https://portal.azure.com", test = "https://{host}/oauth2/token?service={host}&scope=registry:catalog:*",
    note = "Blobs come from a storage account of the registry's, or from its data endpoint: sallyport domain add default "
      .. "REGISTRY.REGION.data.azurecr.io; a pull that is refused there names the host." },
  { name = "ecr", title = "Amazon ECR: images", words = { "docker" }, type = "registry", hosts = { "{account}.dkr.ecr.{region}.amazonaws.com" },
    paths = { "/v2" }, fields = { username = "AWS", basic = true }, ask = { password = "what `aws ecr get-login-password` prints" },
    make = "aws ecr get-login-password", test = "https://{host}/v2/",
    note = "The password is good for 12 hours; a timer renews it: aws ecr get-login-password | sallyport credential set NAME password=-. "
      .. "Layers come from S3: sallyport domain add default prod-REGION-starport-layer-bucket.s3.REGION.amazonaws.com." },
  { name = "registry", title = "Any container registry: Harbor, Nexus, Artifactory, Gitea, your own", words = { "docker" }, type = "registry", hosts = { "{registry}" },
    ask = { username = "the user name", password = "the password or token" },
    make = "https://distribution.github.io/distribution/spec/auth/token/",
    note = "--host again for a token endpoint that is elsewhere (curl -i https://REGISTRY/v2/ says where: realm); basic=true where it asks for "
      .. "Basic; domain add for a host to which blobs are redirected." },

  -- ---- watching ----------------------------------------------------------------------------------
  { name = "datadog", title = "Datadog", words = { "apm", "metrics", "logs" }, type = "api_key", hosts = { "api.datadoghq.com" }, fields = { header = "dd-api-key" },
    env = { "DD_API_KEY", "DATADOG_API_KEY" }, placeholder = "{32:hex}",
    carriers = { headers = { "dd-api-key", "dd-application-key" }, query = { "api_key", "application_key" } },
    mint = {
      { path = "/api/v1/api_key/**", what = "an API key" },
      { path = "/api/v1/application_key/**", what = "an application key" },
      { method = "POST", path = "/api/v2/api_keys", what = "an API key" },
      { method = "GET", path = "/api/v2/api_keys/*", what = "an API key" },
      { method = "POST", path = "/api/v2/application_keys", what = "an application key" },
      { method = "POST", path = "/api/v2/current_user/application_keys", what = "an application key" },
      { method = "POST", path = "/api/v2/service_accounts/*/application_keys", what = "an application key" },
    },
    make = "https://app.datadoghq.com/organization-settings/api-keys", test = "https://api.datadoghq.com/api/v1/validate",
    note = "Most reads want an application key too: headers.DD-APPLICATION-KEY=@FILE. Other sites: --host api.datadoghq.eu and so on." },
  { name = "newrelic", title = "New Relic", words = { "apm" }, type = "api_key", hosts = { "api.newrelic.com", "api.eu.newrelic.com" },
    fields = { header = "api-key" }, env = { "NEW_RELIC_API_KEY" }, placeholder = "NRAK-{27:upper}",
    carriers = { headers = { "api-key", "x-api-key" } }, make = "https://one.newrelic.com/api-keys",
    mint = { { method = { "GET", "POST" }, path = "/graphql", graphql = { "apiAccess" }, what = "keys" } } },
  { name = "grafana", title = "Grafana, in the cloud or your own", words = { "loki", "prometheus" }, type = "bearer", hosts = { "{stack}.grafana.net" },
    env = { "GRAFANA_TOKEN", "GRAFANA_SERVICE_ACCOUNT_TOKEN" }, placeholder = "glsa_{32}_{8:hex}", carriers = { headers = { "cookie" } },
    mint = below(post { { "/api/serviceaccounts/*/tokens", "a service account's token" }, { "/api/auth/keys", "an API key" } }),
    make = "https://grafana.com/docs/grafana/latest/administration/service-accounts/", test = "https://{host}/api/org" },
  { name = "elastic", title = "Elasticsearch", words = { "elk", "kibana" }, type = "api_key", hosts = { "{deployment}.cloud.es.io" },
    fields = { header = "authorization", prefix = "ApiKey " }, env = { "ELASTIC_API_KEY" }, placeholder = "{60}",
    carriers = { headers = { "es-secondary-authorization" } },
    mint = below {
      { method = { "POST", "PUT" }, path = "/_security/api_key", what = "an API key" },
      { method = "POST", path = "/_security/api_key/grant", what = "an API key" },
      { method = "POST", path = "/_security/cross_cluster/api_key", what = "an API key" },
      { method = "POST", path = "/_security/oauth2/token", what = "a token" },
      { method = { "POST", "PUT" }, path = "/_security/service/*/*/credential/token/**", what = "a service token" },
      { method = "GET", path = "/_security/enroll/*", what = "an enrolment token" },
    },
    make = "https://www.elastic.co/guide/en/kibana/current/api-keys.html", test = "https://{host}/_security/_authenticate",
    note = "The key is the encoded one, id and secret in base64. Elastic Cloud's hosts end in a region: name yours whole, and its port." },
  { name = "pagerduty", title = "PagerDuty", words = { "on-call", "incidents" }, type = "api_key", hosts = { "api.pagerduty.com" },
    fields = { header = "authorization", prefix = "Token token=" }, env = { "PAGERDUTY_API_KEY" }, placeholder = "{20:url}",
    mint = post { { "/services/*/integrations", "an integration key" } },
    make = "https://support.pagerduty.com/main/docs/api-access-keys", test = "https://api.pagerduty.com/abilities" },
  { name = "posthog", title = "PostHog", words = { "analytics" }, type = "bearer", hosts = { "us.posthog.com", "eu.posthog.com" },
    env = { "POSTHOG_PERSONAL_API_KEY" }, placeholder = "phx_{43}", carriers = { headers = { "cookie" }, query = { "personal_api_key" } },
    mint = post { { "/api/personal_api_keys", "an API key" } },
    make = "https://us.posthog.com/settings/user-api-keys", test = "https://us.posthog.com/api/users/@me/" },

  -- ---- work ----------------------------------------------------------------------------------------
  { name = "linear", title = "Linear", words = { "issues" }, type = "api_key", hosts = { "api.linear.app", "uploads.linear.app" },
    fields = { header = "authorization" }, env = { "LINEAR_API_KEY" }, placeholder = "lin_api_{40}",
    mint = LINEAR_MINT,
    make = "https://linear.app/settings/account/security" },
  { name = "notion", title = "Notion", words = { "wiki" }, type = "bearer", hosts = { "api.notion.com" }, env = { "NOTION_TOKEN", "NOTION_API_KEY" },
    placeholder = "ntn_{11:digit}{35}", mint = post { { "/v1/oauth/token", "a token" } },
    make = "https://www.notion.so/profile/integrations",
    test = "https://api.notion.com/v1/users/me", test_headers = { ["notion-version"] = "2022-06-28" } },
  { name = "atlassian", title = "Jira and Confluence Cloud", words = { "atlassian" }, type = "basic", hosts = { "{site}.atlassian.net" },
    ask = { username = "your Atlassian e-mail address", password = "an API token" },
    env = { "ATLASSIAN_API_TOKEN", "JIRA_API_TOKEN" }, placeholder = "ATATT3xFfGF0{180:url}", carriers = { headers = { "cookie" } },
    make = "https://id.atlassian.com/manage-profile/security/api-tokens", test = "https://{host}/rest/api/3/myself" },
  { name = "jira-server", title = "Jira or Confluence on a server of your own", words = { "atlassian", "data center" }, type = "bearer", hosts = { "{host}" },
    env = { "JIRA_API_TOKEN" }, placeholder = "{44}", carriers = { headers = { "cookie" } },
    mint = below(post { { "/rest/pat/latest/tokens", "a token" } }),
    make = "https://confluence.atlassian.com/enterprise/using-personal-access-tokens-1026032365.html" },
  { name = "asana", title = "Asana", type = "bearer", hosts = { "app.asana.com" }, paths = { "/api" },
    env = { "ASANA_ACCESS_TOKEN" }, placeholder = "2/{16:digit}/{16:digit}:{32:hex}", carriers = { headers = { "cookie" } },
    make = "https://app.asana.com/0/my-apps", test = "https://app.asana.com/api/1.0/users/me" },
  { name = "trello", title = "Trello", words = { "boards" }, type = "body_parameter", hosts = { "api.trello.com" },
    fields = { name = "token", ["in"] = "query" }, env = { "TRELLO_TOKEN" }, placeholder = "ATTA{72:hex}",
    carriers = { query = { "token" } }, make = "https://trello.com/power-ups/admin",
    note = "The client sends `key` itself: it names the application and is no secret." },
  { name = "airtable", title = "Airtable", type = "bearer", hosts = { "api.airtable.com", "content.airtable.com" },
    env = { "AIRTABLE_API_KEY", "AIRTABLE_TOKEN" }, placeholder = "pat{14}.{64:hex}", carriers = { query = { "api_key" } },
    make = "https://airtable.com/create/tokens", test = "https://api.airtable.com/v0/meta/whoami" },
  { name = "figma", title = "Figma", type = "api_key", hosts = { "api.figma.com" }, fields = { header = "x-figma-token" },
    env = { "FIGMA_TOKEN", "FIGMA_API_KEY" }, placeholder = "figd_{40:url}", carriers = { headers = { "x-figma-token" } },
    mint = post { { "/v1/oauth/token", "a token" }, { "/v1/oauth/refresh", "a token" } },
    make = "https://www.figma.com/developers/api#access-tokens", test = "https://api.figma.com/v1/me" },
  { name = "clickup", title = "ClickUp", type = "api_key", hosts = { "api.clickup.com" }, fields = { header = "authorization" },
    env = { "CLICKUP_API_TOKEN" }, placeholder = "pk_{8:digit}_{32:upper}",
    mint = post { { "/api/v2/oauth/token", "a token" } },
    make = "https://app.clickup.com/settings/apps", test = "https://api.clickup.com/api/v2/user" },
  { name = "monday", title = "monday.com", type = "api_key", hosts = { "api.monday.com" }, fields = { header = "authorization" },
    env = { "MONDAY_API_TOKEN" }, placeholder = JWT,
    make = "https://support.monday.com/hc/en-us/articles/360005144659" },

  -- ---- messages ------------------------------------------------------------------------------------
  { name = "slack", title = "Slack", words = { "chat", "bot" }, type = "bearer", hosts = { "slack.com", "files.slack.com" },
    paths = { "/api", "/files-pri", "/files-tmb", "/upload" }, env = { "SLACK_BOT_TOKEN", "SLACK_TOKEN" },
    placeholder = "xoxb-{12:digit}-{13:digit}-{24}", carriers = { headers = { "cookie" }, query = { "token" }, body = { "token" } },
    mint = SLACK_MINT, make = "https://api.slack.com/apps", test = "https://slack.com/api/auth.test" },
  { name = "discord", title = "Discord: a bot", type = "api_key", hosts = { "discord.com" }, paths = { "/api" },
    fields = { header = "authorization", prefix = "Bot " }, env = { "DISCORD_TOKEN", "DISCORD_BOT_TOKEN" },
    placeholder = "{26:url}.{6:url}.{38:url}", carriers = { headers = { "cookie" } },
    mint = post {
      { "/api/*/channels/*/webhooks", "a webhook with its token" }, { "/api/channels/*/webhooks", "a webhook with its token" },
      { "/api/*/oauth2/token", "a token" }, { "/api/oauth2/token", "a token" },
    },
    make = "https://discord.com/developers/applications", test = "https://discord.com/api/v10/users/@me" },
  { name = "telegram", title = "Telegram: a bot", type = "substitute", hosts = { "api.telegram.org" },
    rows = { { field = "value", place = { "path=/bot{}/**", "path=/file/bot{}/**" } } }, env = { "TELEGRAM_BOT_TOKEN" }, placeholder = "{10:digit}:AA{33:url}",
    ask = { value = "the token that @BotFather gave" }, make = "https://t.me/BotFather",
    test = "https://api.telegram.org/bot{value}/getMe" },
  { name = "twilio", title = "Twilio", words = { "sms", "phone", "whatsapp" }, type = "basic",
    hosts = { "api.twilio.com", "verify.twilio.com", "messaging.twilio.com", "lookups.twilio.com", "conversations.twilio.com" },
    ask = { username = "the account SID, AC…", password = "the auth token" },
    env = { "TWILIO_AUTH_TOKEN" }, placeholder = "{32:hex}",
    mint = {
      { method = "POST", path = "/2010-04-01/Accounts/*/Keys.json", what = "an API key" },
      { method = "POST", path = "/2010-04-01/Accounts/*/SigningKeys.json", what = "an API key" },
      { method = "POST", path = "/2010-04-01/Accounts/*/Keys", what = "an API key" },
      { method = "POST", path = "/2010-04-01/Accounts/*/SigningKeys", what = "an API key" },
      { method = "POST", path = "/2010-04-01/Accounts/*/Tokens.json", what = "short-lived credentials" },
      { path = "/2010-04-01/Accounts", what = "accounts with their auth tokens" },
      { path = "/2010-04-01/Accounts.json", what = "accounts with their auth tokens" },
      { path = "/2010-04-01/Accounts/*", what = "an account with its auth token" },
    },
    make = "https://console.twilio.com", test = "https://api.twilio.com/2010-04-01/Accounts/{username}/Balance.json" },
  { name = "sendgrid", title = "SendGrid", words = { "mail", "e-mail", "email" }, type = "bearer", hosts = { "api.sendgrid.com" }, env = { "SENDGRID_API_KEY" },
    placeholder = "SG.{22:url}.{43:url}", mint = post { { "/v3/api_keys", "an API key" } },
    make = "https://app.sendgrid.com/settings/api_keys", test = "https://api.sendgrid.com/v3/scopes" },
  { name = "mailgun", title = "Mailgun", words = { "mail", "e-mail", "email" }, type = "basic", hosts = { "api.mailgun.net", "api.eu.mailgun.net" },
    fields = { username = "api" }, ask = { password = "an API key" }, env = { "MAILGUN_API_KEY" },
    placeholder = "{32:hex}-{8:hex}-{8:hex}",
    mint = post { { "/v1/keys/**", "an API key" }, { "/v3/domains/*/credentials", "an SMTP login" } },
    make = "https://app.mailgun.com/settings/api_security", test = "https://api.mailgun.net/v4/domains?limit=1" },
  { name = "resend", title = "Resend", words = { "mail", "e-mail", "email" }, type = "bearer", hosts = { "api.resend.com" }, env = { "RESEND_API_KEY" },
    placeholder = "re_{8}_{24}", mint = post { { "/api-keys", "an API key" } },
    make = "https://resend.com/api-keys", test = "https://api.resend.com/domains" },
  { name = "postmark", title = "Postmark: a server", words = { "mail", "e-mail", "email" }, type = "api_key", hosts = { "api.postmarkapp.com" },
    fields = { header = "x-postmark-server-token" }, env = { "POSTMARK_SERVER_TOKEN", "POSTMARK_API_TOKEN" }, placeholder = UUID,
    carriers = { headers = { "x-postmark-server-token", "x-postmark-account-token" } },
    mint = { { path = "/server", what = "the server's own tokens" }, { path = "/servers/**", what = "a server with its tokens" } },
    make = "https://account.postmarkapp.com/servers", test = "https://api.postmarkapp.com/stats/outbound" },

  -- ---- customers and money -------------------------------------------------------------------------
  { name = "stripe", title = "Stripe", words = { "payments", "billing" }, type = "bearer", hosts = { "api.stripe.com", "files.stripe.com" },
    env = { "STRIPE_API_KEY", "STRIPE_SECRET_KEY" }, placeholder = "sk_test_{24}",
    mint = post {
      { "/v1/ephemeral_keys", "an ephemeral key" }, { "/v1/terminal/connection_tokens", "a terminal's token" },
      { "/v1/account_sessions", "a client secret" }, { "/v1/customer_sessions", "a client secret" },
    },
    make = "https://dashboard.stripe.com/apikeys", test = "https://api.stripe.com/v1/balance",
    note = "A restricted key (rk_…) does less harm than a secret key." },
  { name = "paypal", title = "PayPal", words = { "payments" }, type = "oauth_client_credentials", hosts = { "api-m.paypal.com" },
    fields = { token_url = "https://api-m.paypal.com/v1/oauth2/token" },
    ask = { client_id = "the app's client id", client_secret = "its secret" },
    mint = post { { "/v1/oauth2/token", "a token" }, { "/v1/identity/generate-token", "a client token" } },
    make = "https://developer.paypal.com/dashboard/applications",
    note = "The sandbox: --host api-m.sandbox.paypal.com token_url=https://api-m.sandbox.paypal.com/v1/oauth2/token" },
  { name = "shopify", title = "Shopify: a shop's Admin API", words = { "shop", "e-commerce" }, type = "api_key", hosts = { "{shop}.myshopify.com" }, paths = { "/admin" },
    fields = { header = "x-shopify-access-token" }, env = { "SHOPIFY_ACCESS_TOKEN" }, placeholder = "shpat_{32:hex}",
    carriers = { headers = { "x-shopify-access-token", "cookie" } },
    mint = post {
      { "/admin/api/*/storefront_access_tokens.json", "a storefront token" }, { "/admin/oauth/access_token", "a token" },
      { "/admin/access_tokens/delegate", "a delegate token" }, { "/admin/access_tokens/delegate.json", "a delegate token" },
      { "/admin/api/*/graphql.json", "a token", graphql = { "delegateAccessTokenCreate", "storefrontAccessTokenCreate" } },
      { "/admin/api/graphql.json", "a token", graphql = { "delegateAccessTokenCreate", "storefrontAccessTokenCreate" } },
    },
    make = "https://help.shopify.com/en/manual/apps/app-types/custom-apps" },
  { name = "hubspot", title = "HubSpot: a private app", words = { "crm" }, type = "bearer", hosts = { "api.hubapi.com" },
    env = { "HUBSPOT_ACCESS_TOKEN", "HUBSPOT_TOKEN" }, placeholder = "pat-na1-" .. UUID, carriers = { query = { "hapikey" } },
    mint = post {
      { "/oauth/*/token", "a token" }, { "/conversations/v3/visitor-identification/tokens/create", "a visitor's token" },
    },
    make = "https://app.hubspot.com/private-apps", test = "https://api.hubapi.com/account-info/v3/details" },
  { name = "salesforce", title = "Salesforce, as a connected app with a certificate", words = { "crm", "sfdc" }, type = "oauth_jwt_bearer",
    hosts = { "{domain}.my.salesforce.com" },
    fields = { token_url = "https://login.salesforce.com/services/oauth2/token", audience = "https://login.salesforce.com" },
    ask = { issuer = "the connected app's consumer key", subject = "the user name to act as", private_key = "the key of its certificate, PEM" },
    mint = post { { "/services/oauth2/token", "a token" }, { "/services/oauth2/singleaccess", "a session" } },
    make = "https://help.salesforce.com/s/articleView?id=sf.remoteaccess_oauth_jwt_flow.htm", test = "https://{host}/services/data" },
  { name = "docusign", title = "DocuSign, by JWT grant", type = "oauth_jwt_bearer", hosts = { "*.docusign.net", "account.docusign.com" },
    fields = { token_url = "https://account.docusign.com/oauth/token", audience = "account.docusign.com",
               scopes = { "signature", "impersonation" }, scopes_in = "claim" },
    ask = { issuer = "the integration key", subject = "the id of the user to act as", private_key = "the key pair's private key, PEM" },
    mint = post { { "/oauth/token", "a token" } },
    make = "https://apps.docusign.com/api-and-keys", test = "https://account.docusign.com/oauth/userinfo",
    note = "The developer environment: account-d.docusign.com in token_url, audience and --host." },
  { name = "intercom", title = "Intercom", words = { "support" }, type = "bearer", hosts = { "api.intercom.io" }, env = { "INTERCOM_ACCESS_TOKEN" },
    placeholder = "dG9rO{54}=", make = "https://app.intercom.com/a/apps/_/developer-hub", test = "https://api.intercom.io/me" },
  { name = "zendesk", title = "Zendesk", words = { "support", "tickets" }, type = "basic", hosts = { "{subdomain}.zendesk.com" },
    ask = { username = "your e-mail address followed by /token", password = "an API token" },
    env = { "ZENDESK_API_TOKEN" }, placeholder = "{40}", carriers = { headers = { "cookie" } },
    mint = post {
      { "/api/v2/oauth/tokens", "a token" }, { "/api/v2/oauth/tokens.json", "a token" }, { "/oauth/tokens", "a token" },
      { "/api/v2/oauth/clients", "a client with its secret" }, { "/api/v2/oauth/clients.json", "a client with its secret" },
    },
    make = "Admin Center: Apps and integrations, APIs, API tokens", test = "https://{host}/api/v2/users/me.json" },

  -- ---- accounts that a person connects: `credential add`, then `connect` --------------------------------
  -- Register an application with the provider, with the redirect address that the row names (it is
  -- http://127.0.0.1:7082/callback where it names none), and bring its client id and secret.
  { name = "google-oauth", title = "Google: an account's mail, files, calendar", words = { "gmail", "google drive", "gdrive", "google docs", "sheets", "google calendar", "youtube", "workspace", "g suite" }, type = "oauth_authorization_code",
    hosts = { "www.googleapis.com", "gmail.googleapis.com", "docs.googleapis.com", "sheets.googleapis.com", "slides.googleapis.com",
              "people.googleapis.com", "tasks.googleapis.com", "chat.googleapis.com", "youtube.googleapis.com" },
    fields = {
      authorization_url = "https://accounts.google.com/o/oauth2/v2/auth", token_url = "https://oauth2.googleapis.com/token",
      revocation_url = "https://oauth2.googleapis.com/revoke", device_authorization_url = "https://oauth2.googleapis.com/device/code",
      auth_method = "post", params = { access_type = "offline", prompt = "consent" },
    },
    ask = { client_id = "of a client of the kind Desktop app", client_secret = "its secret", scopes = "such as https://www.googleapis.com/auth/drive.readonly" },
    carriers = { headers = { "x-goog-api-key" }, query = { "key", "access_token", "oauth_token", "$httpHeaders", "$httpMethod", "$req" } },
    placeholder = "ya29.a0{200:url}", make = "https://console.cloud.google.com/auth/clients",
    note = "While the consent screen is in testing, Google ends each grant after seven days." },
  { name = "github-oauth", title = "GitHub: an account, through an OAuth or GitHub App", words = { "gh" }, type = "oauth_authorization_code",
    hosts = { "api.github.com", "uploads.github.com" },
    fields = {
      authorization_url = "https://github.com/login/oauth/authorize", token_url = "https://github.com/login/oauth/access_token",
      device_authorization_url = "https://github.com/login/device/code", auth_method = "post",
    },
    ask = { client_id = "the app's client id", client_secret = "one of its client secrets" },
    carriers = { query = { "access_token" } }, mint = GITHUB_MINT, files = GITHUB_FILES, placeholder = "gho_{36}",
    make = "https://github.com/settings/developers", test = "https://api.github.com/user",
    note = "An OAuth App's token has no end and cannot be renewed. Revoke it at https://github.com/settings/applications." },
  { name = "gitlab-oauth", title = "GitLab: an account", type = "oauth_authorization_code", hosts = { "gitlab.com" }, paths = { "/api" },
    fields = {
      authorization_url = "https://{host}/oauth/authorize", token_url = "https://{host}/oauth/token", revocation_url = "https://{host}/oauth/revoke",
      device_authorization_url = "https://{host}/oauth/authorize_device",
    },
    ask = { client_id = "the application's id", scopes = "such as read_api" },
    carriers = { headers = { "private-token", "job-token", "deploy-token", "cookie" }, query = { "private_token", "access_token", "job_token" } },
    within = GITLAB_WITHIN, mint = GITLAB_MINT, placeholder = "{64:hex}",
    make = "https://gitlab.com/-/user_settings/applications", test = "https://{host}/api/v4/user",
    note = "client_secret where the application is confidential. Your own server: --host." },
  { name = "slack-oauth", title = "Slack: an app in a workspace", type = "oauth_authorization_code", hosts = { "slack.com", "files.slack.com" },
    fields = {
      authorization_url = "https://slack.com/oauth/v2/authorize", token_url = "https://slack.com/api/oauth.v2.access",
      scope_separator = ",", redirect_uri = "https://localhost:7082/callback", answer_members = SLACK_MEMBERS,
    },
    ask = { client_id = "the app's client id", client_secret = "its secret", scopes = "of the bot, such as chat:write" },
    carriers = { query = { "token" }, body = { "token" } }, mint = SLACK_MINT, placeholder = "xoxb-{12:digit}-{13:digit}-{24}",
    make = "https://api.slack.com/apps", test = "https://slack.com/api/auth.test",
    note = "Slack wants an https redirect address, where nothing waits: `connect` asks you to paste the one that the browser ended on. "
      .. "A user's own token: the preset slack-user." },
  { name = "slack-user", title = "Slack: a user's own account, through an app", type = "oauth_authorization_code", hosts = { "slack.com", "files.slack.com" },
    fields = {
      authorization_url = "https://slack.com/oauth/v2/authorize", token_url = "https://slack.com/api/oauth.v2.access",
      scope_parameter = "user_scope", scope_separator = ",", token_member = "authed_user", redirect_uri = "https://localhost:7082/callback",
      answer_members = SLACK_MEMBERS,
    },
    ask = { client_id = "the app's client id", client_secret = "its secret", scopes = "of the user, such as search:read" },
    carriers = { query = { "token" }, body = { "token" } }, mint = SLACK_MINT, placeholder = "xoxp-{12:digit}-{13:digit}-{13:digit}-{32:hex}",
    make = "https://api.slack.com/apps", test = "https://slack.com/api/auth.test",
    note = "Slack wants an https redirect address, where nothing waits: `connect` asks you to paste the one that the browser ended on." },
  { name = "microsoft-oauth", title = "Microsoft Graph: an account's mail, files, calendar", words = { "outlook", "onedrive", "teams", "office 365", "m365", "sharepoint", "hotmail" }, type = "oauth_authorization_code",
    hosts = { "graph.microsoft.com" },
    fields = {
      authorization_url = "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
      token_url = "https://login.microsoftonline.com/common/oauth2/v2.0/token",
      device_authorization_url = "https://login.microsoftonline.com/common/oauth2/v2.0/devicecode",
      redirect_uri = "http://localhost:7082/callback",
    },
    ask = { client_id = "the application's id", scopes = "such as User.Read offline_access: without offline_access nothing is renewed" },
    mint = GRAPH_MINT, files = { "login.microsoftonline.com" }, placeholder = "EwB{200:url}", make = "https://entra.microsoft.com", test = "https://graph.microsoft.com/v1.0/me",
    note = "Redirect: http://localhost under 'Mobile and desktop applications'. An application of one tenant: its id in place of common." },
  { name = "notion-oauth", title = "Notion: a workspace, through a public integration", type = "oauth_authorization_code",
    hosts = { "api.notion.com" },
    fields = {
      authorization_url = "https://api.notion.com/v1/oauth/authorize", token_url = "https://api.notion.com/v1/oauth/token",
      revocation_url = "https://api.notion.com/v1/oauth/revoke", auth_method = "basic", token_body = "json",
      params = { owner = "user" }, redirect_uri = "http://localhost:7082/callback",
      answer_members = { "bot_id", "workspace_id", "workspace_name", "workspace_icon" },
    },
    ask = { client_id = "the integration's OAuth client id", client_secret = "its secret" }, placeholder = "ntn_{11:digit}{35}",
    make = "https://www.notion.so/profile/integrations", test = "https://api.notion.com/v1/users/me",
    test_headers = { ["notion-version"] = "2022-06-28" } },
  { name = "linear-oauth", title = "Linear: an account", type = "oauth_authorization_code", hosts = { "api.linear.app", "uploads.linear.app" },
    fields = {
      authorization_url = "https://linear.app/oauth/authorize", token_url = "https://api.linear.app/oauth/token",
      revocation_url = "https://api.linear.app/oauth/revoke", scope_separator = ",", auth_method = "post",
    },
    ask = { client_id = "the application's client id", client_secret = "its secret", scopes = "such as read, or issues:create" },
    mint = LINEAR_MINT, placeholder = "lin_oauth_{64:hex}", make = "https://linear.app/settings/api/applications/new" },
  { name = "atlassian-oauth", title = "Jira and Confluence Cloud: an account", words = { "atlassian" }, type = "oauth_authorization_code", hosts = { "api.atlassian.com" },
    fields = {
      authorization_url = "https://auth.atlassian.com/authorize", token_url = "https://auth.atlassian.com/oauth/token",
      audience = "api.atlassian.com", params = { prompt = "consent" }, token_body = "json", auth_method = "post",
      redirect_uri = "http://localhost:7082/callback",
    },
    ask = { client_id = "the app's client id", client_secret = "its secret", scopes = "such as read:jira-work offline_access: without offline_access nothing is renewed" },
    placeholder = "eyJraWQiOi{200:url}", make = "https://developer.atlassian.com/console/myapps/",
    test = "https://api.atlassian.com/oauth/token/accessible-resources",
    note = "The token works at api.atlassian.com/ex/jira/CLOUDID/… alone; accessible-resources tells the id." },
  { name = "salesforce-oauth", title = "Salesforce: a user", words = { "crm", "sfdc" }, type = "oauth_authorization_code", hosts = { "{domain}.my.salesforce.com" },
    fields = {
      authorization_url = "https://login.salesforce.com/services/oauth2/authorize", token_url = "https://login.salesforce.com/services/oauth2/token",
      revocation_url = "https://login.salesforce.com/services/oauth2/revoke", auth_method = "post",
    },
    ask = { client_id = "the connected app's consumer key", client_secret = "its consumer secret", scopes = "such as api refresh_token" },
    placeholder = "00D{108}", make = "Setup: App Manager, New Connected App", test = "https://{host}/services/data/",
    note = "Salesforce does not say when a token ends: it is renewed each hour (ttl). A sandbox: test.salesforce.com." },
  { name = "dropbox-oauth", title = "Dropbox: an account", words = { "files" }, type = "oauth_authorization_code",
    hosts = { "api.dropboxapi.com", "content.dropboxapi.com", "notify.dropboxapi.com" },
    fields = {
      authorization_url = "https://www.dropbox.com/oauth2/authorize", token_url = "https://api.dropboxapi.com/oauth2/token",
      params = { token_access_type = "offline" }, answer_members = { "scope", "account_id", "uid", "team_id" },
    },
    ask = { client_id = "the app's key" }, placeholder = "sl.u.{130:url}", make = "https://www.dropbox.com/developers/apps",
    note = "client_secret is optional: without it the app is a public client. End the grant at https://www.dropbox.com/account/connected_apps." },
  { name = "hubspot-oauth", title = "HubSpot: an account", words = { "crm" }, type = "oauth_authorization_code", hosts = { "api.hubapi.com" },
    fields = {
      authorization_url = "https://app.hubspot.com/oauth/authorize", token_url = "https://api.hubapi.com/oauth/v3/token",
      auth_method = "post", redirect_uri = "http://localhost:7082/callback", answer_members = { "hub_id", "user_id", "scopes" },
    },
    ask = { client_id = "the app's client id", client_secret = "its secret", scopes = "such as oauth crm.objects.contacts.read" },
    mint = post { { "/oauth/*/token", "a token" } }, placeholder = "{100:url}", make = "https://developers.hubspot.com" },
  { name = "zoom-oauth", title = "Zoom: an account", words = { "meetings" }, type = "oauth_authorization_code", hosts = { "api.zoom.us" },
    fields = {
      authorization_url = "https://zoom.us/oauth/authorize", token_url = "https://zoom.us/oauth/token",
      revocation_url = "https://zoom.us/oauth/revoke", auth_method = "basic",
    },
    ask = { client_id = "the app's client id", client_secret = "its secret" },
    mint = { { method = "GET", path = "/v2/users/*/token", what = "a start token (ZAK)" } }, placeholder = "eyJzdiI6{200:url}",
    make = "https://marketplace.zoom.us/develop/create", test = "https://api.zoom.us/v2/users/me",
    note = "Scopes are the app's own settings." },
  { name = "box-oauth", title = "Box: an account", words = { "files" }, type = "oauth_authorization_code", hosts = { "api.box.com", "upload.box.com" },
    fields = {
      authorization_url = "https://account.box.com/api/oauth2/authorize", token_url = "https://api.box.com/oauth2/token",
      revocation_url = "https://api.box.com/oauth2/revoke", auth_method = "post",
    },
    ask = { client_id = "the app's client id", client_secret = "its secret" }, placeholder = "{32}",
    make = "https://app.box.com/developers/console", test = "https://api.box.com/2.0/users/me" },
  { name = "asana-oauth", title = "Asana: an account", type = "oauth_authorization_code", hosts = { "app.asana.com" }, paths = { "/api" },
    fields = {
      authorization_url = "https://app.asana.com/-/oauth_authorize", token_url = "https://app.asana.com/-/oauth_token",
      revocation_url = "https://app.asana.com/-/oauth_revoke", auth_method = "post",
    },
    ask = { client_id = "the app's client id", client_secret = "its secret" }, carriers = { headers = { "cookie" } },
    placeholder = "eyJ0eXAi{200:url}", make = "https://app.asana.com/0/my-apps", test = "https://app.asana.com/api/1.0/users/me" },
  { name = "airtable-oauth", title = "Airtable: an account", type = "oauth_authorization_code", hosts = { "api.airtable.com", "content.airtable.com" },
    fields = { authorization_url = "https://airtable.com/oauth2/v1/authorize", token_url = "https://airtable.com/oauth2/v1/token" },
    ask = { client_id = "the integration's client id", scopes = "such as data.records:read schema.bases:read" },
    carriers = { query = { "api_key" } }, placeholder = "oaa{90:url}", make = "https://airtable.com/create/oauth",
    test = "https://api.airtable.com/v0/meta/whoami" },
  { name = "spotify-oauth", title = "Spotify: an account", words = { "music" }, type = "oauth_authorization_code", hosts = { "api.spotify.com" },
    fields = { authorization_url = "https://accounts.spotify.com/authorize", token_url = "https://accounts.spotify.com/api/token" },
    ask = { client_id = "the app's client id" }, placeholder = "BQ{180:url}", make = "https://developer.spotify.com/dashboard",
    test = "https://api.spotify.com/v1/me" },
  { name = "x-oauth", title = "X: an account", words = { "twitter", "tweets" }, type = "oauth_authorization_code", hosts = { "api.x.com" },
    fields = {
      authorization_url = "https://x.com/i/oauth2/authorize", token_url = "https://api.x.com/2/oauth2/token", revocation_url = "https://api.x.com/2/oauth2/revoke",
    },
    ask = { client_id = "the app's OAuth 2.0 client id", scopes = "such as tweet.read users.read offline.access: without offline.access nothing is renewed" },
    placeholder = "{90:url}", make = "https://developer.x.com/en/portal/dashboard", test = "https://api.x.com/2/users/me" },
}

return {
  kind    = "presets",
  api     = 1,
  name    = "presets",
  title   = "Well-known APIs",
  presets = list,

  -- What a key's beginning tells of its kind: its placeholder is shaped so, whatever preset or variable it has. A shape,
  -- whose prefix ends at its first {, or { prefix, shape }. The placeholders of presets count as well, where their prefix
  -- ends in _, - or a dot. The longest prefix counts. Lengths are those that providers publish, or their patterns for
  -- secret scanning; of several the shorter, older one: installation tokens of github.com have some 520 bytes since 2026.
  kinds = {
    -- code
    "ghp_{36}", "github_pat_{22}_{59}", "gho_{36}", "ghu_{36}", "ghs_{36}", "ghr_{76}",
    "glpat-{20:url}", "gldt-{20:url}", "glrt-{20:url}", "glrtr-{20:url}", "glcbt-{2}_{20:url}", "glptt-{40:hex}", "glft-{20:url}",
    "glimt-{25}", "glagent-{50:url}", "glsoat-{20:url}", "glffct-{20:url}", "gloas-{64:hex}", "ATBB{32}",
    { "ATATT3x", "ATATT3xFfGF0{180:url}" }, { "ATCTT3x", "ATCTT3xFfGN0{180:url}" }, "CCIPRJ_{22}_{40:hex}",
    "sntrys_{160:url}", "sntryi_{64:hex}", "sgp_{16:hex}_{40:hex}", "squ_{40:hex}", "sqp_{40:hex}", "sqa_{40:hex}",
    -- packages
    "npm_{36}", { "pypi-", "pypi-AgEIcHlwaS5vcmc{150:url}" }, "rubygems_{48:hex}", "CLOJARS_{60:hex}", "dckr_pat_{27:url}",
    "dckr_oat_{32:url}", "AKCp{69}",
    -- messages
    "xoxb-{12:digit}-{13:digit}-{24}", "xoxp-{12:digit}-{13:digit}-{13:digit}-{32:hex}", "xoxa-2-{12:digit}-{13:digit}-{32:hex}",
    "xoxs-{12:digit}-{13:digit}-{13:digit}-{32:hex}", "xoxr-{12:digit}-{13:digit}-{32:hex}", "xoxc-{12:digit}-{13:digit}-{13:digit}-{64:hex}",
    "xoxd-{160}", "xoxe-1-{146}", "xoxe.xoxb-1-{163}", "xoxe.xoxp-1-{163}", { "xapp-", "xapp-1-A{10:upper}-{13:digit}-{64:hex}" },
    "xwfp-{12:digit}-{13:digit}-{24}", "SG.{22:url}.{43:url}", "key-{32:hex}", "xkeysib-{64:hex}-{16}", "mlsn.{64:hex}",
    -- money
    "sk_test_{24}", "sk_live_{24}", "rk_test_{24}", "rk_live_{24}", "pk_test_{24}", "pk_live_{24}", "whsec_{32}",
    "sk_org_test_{24}", "sk_org_live_{24}",
    "sq0atp-{22:url}", "sq0csp-{43:url}", "EAAA{60:url}", "shippo_live_{40:hex}", "shippo_test_{40:hex}",
    "EZAK{54}", "EZTK{54}", "duffel_live_{43:url}", "duffel_test_{43:url}", "shpat_{32:hex}", "shpca_{32:hex}", "shppa_{32:hex}",
    "shpss_{32:hex}", "pat-eu1-" .. UUID, "pat-na1-" .. UUID, "pat-na2-" .. UUID, "pat-ap1-" .. UUID,
    -- models
    { "sk-ant-", "sk-ant-api03-{93:url}AA" }, "sk-ant-api03-{93:url}AA", "sk-ant-admin01-{93:url}AA", "sk-ant-oat01-{93:url}AA",
    "sk-ant-ort01-{93:url}AA", "sk-{48}", "sk-proj-{74:url}T3BlbkFJ{74:url}", "sk-svcacct-{74:url}T3BlbkFJ{74:url}",
    "sk-admin-{58:url}T3BlbkFJ{58:url}", "sess-{40}", "sk-or-v1-{64:hex}", "sk-lf-" .. UUID, "pk-lf-" .. UUID, "hf_{34:alpha}", "api_org_{34:alpha}",
    "AIza{35:url}", "AQ.{50:url}", "lsv2_sk_{32:hex}_{10:hex}", "tvly-{32}", "tvly-dev-{32}", "tvly-prod-{32}", "nvapi-{64:url}", "jina_{60}",
    "tgp_v1_{43:url}", "wandb_v1_{77:url}", "llx-{48}", "e2b_{40:hex}", "bb_live_{27:url}", "apify_api_{36}", "crsr_{64:hex}",
    -- clouds
    "AKIA{16:upper}", "ASIA{16:upper}", "ABIA{16:upper}", "ACCA{16:upper}", { "ABSK", "ABSKQmVkcm9ja0FQSUtleS{110}" },
    { "bedrock-api-key-", "bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29tLz{200:url}" },
    { "ya29.", "ya29.a0{200:url}" }, "GOCSPX-{28:url}", { "1//", "1//0{100:url}" }, "LTAI{20}", "SCW{17:upper}",
    { "HRKU-", "HRKU-AA{58:url}" }, "dop_v1_{64:hex}", "doo_v1_{64:hex}", "dor_v1_{64:hex}", "hvs.{90:url}", "hvb.{138:url}", "hvr.{90:url}", "dapi{32:hex}", "fo1_{43:url}",
    "sbp_{40:hex}", "sb_secret_{22:url}_{8:url}", "sb_publishable_{22:url}_{8:url}", "vcp_{56}", "vck_{56}", "nfp_{36}", "nfc_{36}", "nfo_{36}", "nfu_{36}",
    "pscale_tkn_{43:url}", "pscale_oauth_{43:url}", "pscale_pw_{43:url}", "tskey-api-{12}CNTRL-{32}", "tskey-auth-{12}CNTRL-{32}",
    "tskey-client-{12}CNTRL-{32}", "pul-{40:hex}", "dp.pt.{43}", "dp.st.{43}", "dp.ct.{43}", "dp.sa.{43}", "dp.scim.{43}", "dp.audit.{43}",
    "v1.0-{24:hex}-{146:hex}", { "ops_", "ops_eyJ{249}" },
    -- watching
    "glsa_{32}_{8:hex}", { "glc_", "glc_eyJ{157}" }, "NRAK-{27:upper}", "NRII-{32:url}", "phx_{43}", "phc_{43}", "phs_{43}", "dt0c01.{24:upper}.{64:upper}",
    "dt0s01.{24:upper}.{64:upper}", "dt0s16.{24:upper}.{64:upper}", "hcaik_{58}", "xaat-" .. UUID, "xapt-" .. UUID, "pylf_v1_us_{43}",
    -- work
    "lin_api_{40}", "lin_oauth_{64:hex}", "ntn_{11:digit}{35}", "secret_{43}", "figd_{40:url}", "figo_{40:url}", "figu_{40:url}", "PMAK-{24:hex}-{34:hex}",
    "CFPAT-{43:url}", "tfp_{44:url}_{14}",
    -- any JWT: Kubernetes, Supabase, Argo CD
    { "eyJ", JWT },
  },

  -- Shapes of placeholders for variables that no preset names.
  shapes  = {
    ANTHROPIC_AUTH_TOKEN = "sk-ant-api03-{93:url}AA", GITHUB_PAT = "github_pat_{22}_{59}", NPM_TOKEN = "npm_{36}",
    NODE_AUTH_TOKEN = "npm_{36}", TWINE_PASSWORD = "pypi-AgEIcHlwaS5vcmc{150:url}", CARGO_REGISTRY_TOKEN = "cio{32}",
    SLACK_APP_TOKEN = "xapp-1-A{10:upper}-{13:digit}-{64:hex}", TWILIO_ACCOUNT_SID = "AC{32:hex}",
    AWS_ACCESS_KEY_ID = "AKIA{16:upper}", AWS_SECRET_ACCESS_KEY = "{40}",
  },

  -- What a row says, as it is used: a change that loses one of these is refused.
  examples = {
    { preset = "slack-user", want = { type = "oauth_authorization_code", hosts = { "slack.com", "files.slack.com" } } },
    { preset = "github", want = { type = "bearer", hosts = { "api.github.com", "uploads.github.com" }, env = { "GH_TOKEN", "GITHUB_TOKEN" } } },
    { preset = "anthropic", want = { type = "api_key", hosts = { "api.anthropic.com" }, placeholder = "sk-ant-api03-{93:url}AA" } },
    { preset = "atlassian", want = { type = "basic", hosts = { "{site}.atlassian.net" } } },
    { preset = "notion-oauth", want = { type = "oauth_authorization_code", hosts = { "api.notion.com" } } },
  },
}
