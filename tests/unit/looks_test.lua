-- lua/cli/looks.lua: what is taken for a secret in a file that is to hold none; lua/cli/jsonc.lua: a file of which a part is
-- changed. The values are made up. Each row: text, the name that it stands under or nil.
local looks, jsonc, json = require "cli.looks", require "cli.jsonc", require "json"

local function is(got, want, what)
  if got ~= want then error(("%s: got %s, wanted %s"):format(what, tostring(got), tostring(want)), 2) end
end

-- What build.sh takes out of the presets' text is what Lua finds there.
do
  local text, seen, n = require("sandbox").default_source("presets"), {}, 0
  local function add(name) seen[name], n = true, n + (seen[name] and 0 or 1) end
  for list in text:gmatch("env%s*=%s*(%b{})") do
    for name in list:gmatch('"([%u%d_]+)"') do add(name) end
  end
  for name in text:match("\n%s*shapes%s*=%s*(%b{})"):gmatch("([%u%d_]+) = ") do add(name) end
  for name in pairs(require "cli.secret_names") do
    is(seen[name], true, name)
    n = n - 1
  end
  is(n, 0, "names that build.sh did not find")
end

local secrets = {
  -- as services make them
  { "sk-proj-abc123def456" }, { "sk_live_51H8fake9012" }, { "ghp_0123456789abcdef" }, { "github_pat_11AAAAAAA0fake" }, { "gho_16C7e42F292c" },
  { "xoxb-1234567890-fake" }, { "xapp-1-A02-fake" }, { "AKIAIOSFODNN7EXAMPLE" }, { "ASIAIOSFODNN7EXAMPLE" }, { "glpat-ABCdef123456" },
  { "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln" }, { "AIzaSyA-fake_0123456789abcdefghijklmno" }, { "hf_AbCdEfGhIjKlMn" }, { "tvly-dev-0123456789" },
  { "ntn_0123456789abc" }, { "figd_AbC-012345" }, { "npm_abcdef0123456789" }, { "hvs.CAESIJfake0123" }, { "SG.abcdefgh.0123456789" },
  { "-----BEGIN RSA PRIVATE KEY-----\nMII" }, { "token is ghp_0123456789abcdef, I think" }, { "--access-token=sbp_0123456789abcdef" },
  -- as they stand in a text
  { "Bearer abcdef-ghi" }, { "Authorization: Basic dXNlcjpwYXNz" }, { "postgresql://user:s3cretPass@db.test:5432/app" },
  { "redis://:hunter2x@cache.test" }, { "https://me:passw0rd@git.test/x.git" }, { "--api-key=abcdef1" }, { "API_KEY=canary-value-1" },
  { '{"client_id":"a","client_secret":"abc-def-1"}' }, { "export TOKEN='abc-def-1'; run" }, { "Server=db;Password=abc-def-1;" },
  { "https://api.test/mcp?apiKey=abcdef1" },
  -- by their name
  { "hunter2", "PASSWORD" }, { "plain-words", "API_KEY" }, { "x1", "--token" }, { "swordfish", "apiKey" }, { "a b c", "client-secret" },
  { "swordfish", "DB_PASS" }, { "swordfish", "GITHUB_PAT" }, { "swordfish", "POSTMARK_SERVER_TOKEN" }, { "swordfish", "AUTH" },
  { "abandon ability able about", "MNEMONIC" }, { "abc", "TOKEN" }, { "u:p4ssw0rd", "BASIC_AUTH" }, { "secret123", "NEO4J_PASSWORD" },
  { "https://hooks.test/services/T000/B000/abcdefghijklmnop12345678" }, { "AccountKey=abc123def456==;EndpointSuffix=core", "CONN" },
  { "Server=x;User Id=sa;Password=hunter22;" }, { "mongodb+srv://u:p4ssw0rdX@c.test/db" }, { "{\"private_key\":\"-----BEGIN PRIVATE KEY-----\\nMII\"}" },
  -- by chance nobody would write
  { "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }, { "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318" },
  { "f3a9c07b1e5d48a2b6c0d9e8f7a61234" }, { "Zk9mQ2xvdWRBcGlLZXk5OTkxMjM0" }, { "aB3-xY9_kL2-mN8_pQ4-rS7" }, { "x=0c1d2e3f4a5b6c7d8e9f0a1b" },
}

local none = {
  { "" }, { "npx" }, { "-y" }, { "@modelcontextprotocol/server-postgres" }, { "mcp-server-postgres@2024.10.7" }, { "ghcr.io/github/github-mcp-server" },
  { "--transport" }, { "http-only" }, { "/srv/app/server-2024/build/index.js" }, { "C:\\Program Files\\thing20240101\\run.exe" },
  { "/nix/store/0c1d2e3f4a5b6c7d8e9f0a1b2c3d4e5f-mcp/bin/mcp" }, { "https://mcp.test/sse?profile=p1" }, { "analytics_production_2024" },
  { "2026-11-28T12:34:56.789Z" }, { "MyVeryLongClassNameForServer" }, { "blue-team-2024" }, { "1234567890123456789012" },
  { "ghcr.io/x/y@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }, { "git+https://git.test/x/y@0123456789abcdef0123456789abcdef01234567" },
  { "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==" },
  { "550e8400-e29b-41d4-a716-446655440000" }, { "550e8400-e29b-41d4-a716-446655440000", "PROJECT_ID" },
  { "9f86d081884c7d659a2feaa0c55ad015", "COMMIT_SHA" }, { "0123456789abcdef0123456789abcdef", "ACCOUNT_ID" }, { "0123456789abcdef01234567", "--project" },
  { "${GITHUB_TOKEN}", "GITHUB_TOKEN" }, { "Bearer ${API_TOKEN}" }, { "${env:KEY_NUMBER_123456789_ABCDEF}" }, { "{env:API_TOKEN}", "API_TOKEN" },
  { "$API_TOKEN", "API_TOKEN" }, { "Authorization:${AUTH_HEADER}" }, { "--api-key=${API_KEY}" }, { "postgresql://user:${PGPASSWORD}@db.test/app" },
  { "/run/secrets/token", "TOKEN_FILE" }, { "/home/me/.ssh/id_ed25519", "SSH_KEY" }, { "https://auth.test/token", "TOKEN_URL" }, { "oauth", "AUTH" },
  { "true", "USE_TOKEN" }, { "4096", "MAX_TOKENS" }, { "8080", "KEYCLOAK_PORT" }, { "", "API_KEY" }, { "en", "KEYBOARD" }, { "me", "AUTHOR" },
  { "GitHub Personal Access Token" }, { "A bearer token for the server" }, { "sk-learn-server" }, { "fc-cache-service-thing" }, { "key=value" },
  -- from what people have in such files
  { "type=bind,src=/Users/username/Desktop,dst=/projects/Desktop" }, { "/var/run/docker.sock:/var/run/docker.sock" }, { "me@example.com", "JIRA_USERNAME" },
  { "--max-old-space-size=4096", "NODE_OPTIONS" }, { "appo8Xk2PqLmNvB4Z", "AIRTABLE_BASE_ID" }, { "T01234567", "SLACK_TEAM_ID" }, { "default", "AWS_PROFILE" },
  { "1234567890-abcdefghijklmnop.apps.googleusercontent.com", "clientId" }, { "0oa1b2c3d4E5F6g7h8i9", "clientId" }, { "false", "TOKENIZERS_PARALLELISM" },
  { "postgresql://user@localhost:5432/mydb" }, { "0x742d35Cc6634C0532925a3b844Bc454e4438f44e", "WALLET_ADDRESS" }, { "claude-sonnet-4-20250514", "MODEL" },
  { "ws://127.0.0.1:9222/devtools/browser" }, { "sentence-transformers/all-MiniLM-L6-v2" }, { "--project-ref=abcdefghijklmnopqrst" }, { "api_key", "AUTH_METHOD" },
  { "Enter your GitHub Personal Access Token (classic)", "description" }, { "X-API-Key", "AUTH_HEADER_NAME" }, { "ghcr.io/x/mcp-atlassian:latest" },
  { "list_access_tokens", "alwaysAllow" }, { "public-words", "PUBLIC_KEY" }, { "GITHUB_TOKEN", "bearer_token_env_var" },
}

return {
  ["a secret is known by its beginning, its name, what stands before it, or that nobody made it up"] = function()
    for _, row in ipairs(secrets) do
      if not looks.secret(row[1], { name = row[2] }) then error(("not seen: %s (%s)"):format(row[1], row[2] or "-")) end
    end
  end,
  ["identifiers, digests, paths, versions, variables and sentences are none"] = function()
    for _, row in ipairs(none) do
      local why = looks.secret(row[1], { name = row[2] })
      if why then error(("%s (%s) is taken for a secret: %s"):format(row[1], row[2] or "-", why)) end
    end
  end,
  ["a UUID counts where it is asked for: in an address, a header"] = function()
    is(looks.secret("/s/550e8400-e29b-41d4-a716-446655440000/mcp", { uuid = true }) ~= nil, true, "uuid")
  end,
  ["no text takes long, or breaks"] = function()
    for _, unit in ipairs { "a", "=", "a=", "://", "${", "sk-", "\255", "Bearer ", "a1", "-", "@0" } do
      looks.secret(unit:rep(20000 // #unit), { name = unit, uuid = true })
    end
  end,
  ["comments and last commas go, and nothing else of a file"] = function()
    local text = "\239\187\191// head\n{\n  // one\n  \"a\": 1, // tail\n  /* b */ \"b\": [1, 2, /* c */ ],\n  \"u\": \"http://x/*y*/,]\",\n  \"q\": \"\\\\\\\"//\",\n}\n"
    local root = assert(jsonc.parse(text))
    is(jsonc.file(root), "{\n  \"a\": 1,\n    \"b\": [1, 2   ],\n  \"u\": \"http://x/*y*/,]\",\n  \"q\": \"\\\\\\\"//\"\n}\n", "strict")
    is(json.decode(jsonc.file(root)).q, "\\\"//", "escapes")
    text = '{ "z": 1.50,\r\n\t"a" : [ ] , "n":{"x":null,"y":-0e1,"w":"\\u00e9\\ud83d\\ude00"} }'
    is(jsonc.file(assert(jsonc.parse(text))), text, "the same bytes")
  end,
  ["a member goes with its comma, first, last, alone or all"] = function()
    local function without(...)
      local root = assert(jsonc.parse('{"a":1, "b":{"x":[1, 2, 3]}, "c":3}'))
      for _, name in ipairs { ... } do
        local _, kid = jsonc.get(root, name)
        kid.gone = true
      end
      return jsonc.file(root)
    end
    is(without "a", '{"b":{"x":[1, 2, 3]}, "c":3}', "first")
    is(without "b", '{"a":1, "c":3}', "middle")
    is(without "c", '{"a":1, "b":{"x":[1, 2, 3]}}', "last")
    is(without("a", "b"), '{"c":3}', "two")
    is(without("b", "c"), '{"a":1}', "the last two")
    is(without("a", "b", "c"), "{}", "all")
    local root = assert(jsonc.parse('{"b":{"x":[1, "two", 3]}}'))
    local list = jsonc.get(jsonc.get(root, "b"), "x")
    list[1].gone = true
    jsonc.set(list[2].node, 'a"b')
    is(jsonc.file(root), '{"b":{"x":["a\\"b", 3]}}', "set")
  end,
  ["what is no JSON is said with its line; other encodings by their name"] = function()
    for _, row in ipairs {
      { "{\n\"a\": 1\n\"b\": 2}", "line 3" }, { "{", "line 1" }, { "", "line 1" }, { "{\"a\":1,\"a\":2}", "twice" }, { "{'a':1}", "line 1" },
      { "\"abc", "line 1" }, { "{} /", "line 1" }, { "{} /*", "line 1" }, { "{\"a\":1,,}", "line 1" }, { "[,]", "line 1" }, { "{} x", "line 1" },
      { "1/**/2", "line 1" }, { "\"\\", "line 1" },
      { "\255\254{\0}\0", "UTF-16" }, { "\254\255\0{\0}", "UTF-16" }, { "{\0}\0", "UTF-16" }, { "{\"a\":\"\255\"}", "not UTF-8" },
    } do
      local root, why = jsonc.parse(row[1])
      is(root, nil, row[1])
      if not why:find(row[2], 1, true) then error(("%q: %s"):format(row[1], why)) end
    end
  end,
  ["every beginning of a file is read, or refused with a reason"] = function()
    local text = "/*c*/{\"a\":[1,\"x\\\\\",{}], // d\n\"b\":null,}\n"
    for i = 0, #text do
      local root, why = jsonc.parse(text:sub(1, i))
      is(root ~= nil or type(why) == "string", true, i)
      if root then is(json.decode(jsonc.file(root)) ~= nil, true, i) end
    end
  end,
}
