-- lua/cli/suffixes.lua: wildcards that strangers answer.
local suffixes, records = require "cli.suffixes", require "records"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

return {
  ["a wildcard where anybody can have a name is shared"] = function()
    for _, name in ipairs { "github.io", "atlassian.net", "amazonaws.com", "co.uk", "com.au", "org.nz", "ngrok.io",
      "my.salesforce.com", "openai.azure.com" } do
      is(suffixes.first { "*." .. name }, "*." .. name)
    end
  end,
  ["so is one over such a name"] = function()
    local host, why, known = suffixes.first { "api.example.com", "*.railway.app" }
    is(host, "*.railway.app")
    is(known, "up.railway.app")
    assert(why)
    is(suffixes.first { "*.windows.net" }, "*.windows.net")
    is(suffixes.first { "*.azure.com" }, "*.azure.com")
  end,
  ["so is a region or a service below one, for the customer's name stands below that"] = function()
    for _, name in ipairs { "a.run.app", "us-central1.run.app", "execute-api.us-east-1.amazonaws.com", "us-east-1.amazonaws.com",
      "lambda-url.us-east-1.on.aws", "us.auth0.com", "westeurope.cloudapp.azure.com", "uc.r.appspot.com", "blob.core.windows.net",
      "eu-west-1.snowflakecomputing.com", "crm4.dynamics.com", "7.azuredatabricks.net", "eu.ngrok.io", "sandbox.my.salesforce.com",
      "us-central1.gcp.cloud.es.io" } do
      local host, why, known = suffixes.first { "*." .. name }
      is(host, "*." .. name)
      assert(why and (name == known or name:sub(-#known - 1) == "." .. known), known)
    end
  end,
  ["a name of one's own below it is not, nor an exact host, nor another name that ends alike"] = function()
    is(suffixes.first { "*.acme.github.io", "acme.atlassian.net", "*.example.com", "*.notgithub.io", "*.acme.co.uk",
      "*.googleapis.com", "*.go.com", "*.uk" }, nil)
  end,
  ["what is sent to a name is shown to strangers: at any depth"] = function()
    for _, name in ipairs { "pipedream.net", "m.pipedream.net", "oastify.com", "a.oastify.com", "beeceptor.com", "requestcatcher.com",
      "webhook.site", "x.interact.sh" } do
      is(suffixes.first { "*." .. name }, "*." .. name)
    end
  end,
  ["every private name of the Public Suffix List is shared, and what is below one is not"] = function()
    if not suffixes.has_list() then return print("skip suffixes: no Public Suffix List here") end
    -- Not asked: the thirteen names in other letters than ASCII, which no host is written in; their xn-- forms are not in it.
    local known = { ["googleapis.com"] = "Google's own APIs; what strangers keep there are files" }
    local private, n = false, 0
    for line in io.lines("/usr/share/publicsuffix/public_suffix_list.dat") do
      private = private and not line:find("END PRIVATE", 1, true) or line:find("BEGIN PRIVATE", 1, true) ~= nil
      local name = private and line:find("^[%w*]") and not line:find("[\128-\255]") and line:gsub("^%*", "some")
      if name and not known[name] then
        n = n + 1
        is(suffixes.first { "*." .. name }, "*." .. name)
        if line:find("^%*") then is(suffixes.first { "*." .. line:sub(3) }, "*." .. line:sub(3)) end
      end
    end
    assert(n > 1500, n)
    is(suffixes.first { "*.acme.co.com", "*.acme.altervista.org", "*.example.org", "*.acme.com", "*.acme.io", "*.api.acme.dev" }, nil)
  end,
  ["a whole top label is refused where it is typed"] = function()
    for _, host in ipairs { "*.com", "*.uk", "*.io", "*.dev" } do assert(not records.host(host), host) end
  end,
}
