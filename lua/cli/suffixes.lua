--- Names below which strangers live: a wildcard there would hand a secret to any of them.
-- A group is a reason and the names it holds for. It is a table of what an operator might plausibly type, with what the
-- Public Suffix List does not know: tenants. That list has ten thousand rows and changes each week, so it is not in here;
-- where this machine has it (Debian's publicsuffix), it is asked too. One name below is fine
-- ("*.acme.github.io" is Acme's alone), and so is an exact host. Where what stands below is a region or a service, and
-- the customer's own name somewhere below that ("acme-x.a.run.app", "acme.execute-api.us-east-1.amazonaws.com"), the
-- name is listed among `deep` too: a wildcard anywhere below it is shared.
local M = {}

local groups = {
  { why = "anybody can register a name below it", names = [[
      uk.com us.com eu.com de.com gb.net cn.com eu.org is-a.dev js.org nom.co com.de ]] },
  { why = "anybody can put up a site there", names = [[
      github.io gitlab.io bitbucket.io pages.dev workers.dev netlify.app vercel.app now.sh web.app firebaseapp.com
      herokuapp.com fly.dev onrender.com up.railway.app deno.dev deno.net surge.sh glitch.me repl.co replit.dev replit.app
      csb.app stackblitz.io webcontainer.io lovable.app bolt.host framer.app framer.website webflow.io wixsite.com
      squarespace.com wordpress.com blogspot.com tumblr.com weebly.com carrd.co bubbleapps.io hf.space streamlit.app
      gradio.live modal.run val.run koyeb.app code.run zeabur.app pythonanywhere.com pantheonsite.io wpengine.com kinsta.app
      platformsh.site ondigitalocean.app readthedocs.io gitbook.io notion.site ]] },
  { why = "any customer of that cloud can answer there", names = [[
      amazonaws.com amazonaws.com.cn on.aws cloudfront.net elasticbeanstalk.com awsapprunner.com amplifyapp.com
      awsglobalaccelerator.com appspot.com run.app cloudfunctions.net googleusercontent.com azurewebsites.net
      cloudapp.net cloudapp.azure.com azurestaticapps.net azurecontainerapps.io azurecontainer.io azureedge.net azurefd.net
      azure-api.net trafficmanager.net core.windows.net servicebus.windows.net oraclecloudapps.com linodeusercontent.com
      linodeobjects.com digitaloceanspaces.com backblazeb2.com r2.dev r2.cloudflarestorage.com vultrobjects.com
      your-server.de contaboserver.net ovh.net scw.cloud edgekey.net akamaized.net fastly.net fastlylb.net b-cdn.net ]] },
  { why = "anybody can point a name below it at a machine of their own", names = [[
      ngrok.io eu.ngrok.io us.ngrok.io ap.ngrok.io au.ngrok.io in.ngrok.io jp.ngrok.io sa.ngrok.io ngrok.app ngrok.dev ngrok-free.app ngrok-free.dev trycloudflare.com cfargotunnel.com loca.lt lhr.life serveo.net
      ts.net zrok.io pinggy.link bore.pub app.github.dev gitpod.io devtunnels.ms duckdns.org
      ddns.net dyndns.org dynu.net hopto.org zapto.org mooo.com nip.io sslip.io xip.io ]] },
  { why = "what is sent there is shown to whoever made that name", deep = true, names = [[
      pipedream.net webhook.site beeceptor.com requestcatcher.com requestbin.net requestbin.com hookb.in postb.in
      oastify.com burpcollaborator.net interact.sh interactsh.com oast.fun oast.live oast.me oast.online oast.pro oast.site
      dnslog.cn ceye.io eyes.sh dnslog.link canarytokens.com canarytokens.org mockapi.io mockable.io hookdeck.com webhook.cool ]] },
  { why = "each name below it is another customer's own", names = [[
      atlassian.net jira.com zendesk.com freshdesk.com myshopify.com my.salesforce.com
      sandbox.my.salesforce.com develop.my.salesforce.com scratch.my.salesforce.com force.com lightning.force.com
      service-now.com sharepoint.com dynamics.com okta.com oktapreview.com auth0.com onelogin.com myworkday.com
      bamboohr.com netsuite.com looker.com openai.azure.com cognitiveservices.azure.com services.ai.azure.com vault.azure.net
      database.windows.net visualstudio.com snowflakecomputing.com cloud.databricks.com gcp.databricks.com
      azuredatabricks.net grafana.net es.io elastic-cloud.com algolia.net supabase.co firebaseio.com mongodb.net upstash.io
      convex.cloud convex.site hasura.app retool.com airtable.app teamcity.com jfrog.io cloudsmith.io sonatype.app
      chargebee.com recurly.com greenhouse.io lever.co ]] },
}

local deep = {}
for name in ([[
    amazonaws.com amazonaws.com.cn on.aws elasticbeanstalk.com awsapprunner.com appspot.com run.app googleusercontent.com
    azurewebsites.net cloudapp.net cloudapp.azure.com azurestaticapps.net azurecontainerapps.io azurecontainer.io azure-api.net
    core.windows.net oraclecloudapps.com linodeusercontent.com linodeobjects.com digitaloceanspaces.com backblazeb2.com
    vultrobjects.com your-server.de contaboserver.net ovh.net scw.cloud fastly.net app.github.dev gitpod.io devtunnels.ms replit.dev
    repl.co zrok.io dynamics.com auth0.com snowflakecomputing.com azuredatabricks.net es.io elastic-cloud.com
    ]]):gmatch("%S+") do deep[name] = true end

-- "co.uk", "com.br": below a country's top label these stand where ".com" does.
local second = {}
for label in ("co com net org edu gov mil ac or ne go gob govt sch ltd plc nom info biz web me id"):gmatch("%S+") do
  second[label] = true
end
local REGISTER = groups[1].why

local reasons = {}
for _, group in ipairs(groups) do
  for name in group.names:gmatch("%S+") do
    reasons[name] = group.why
    deep[name] = deep[name] or group.deep
  end
end

-- ---- the machine's Public Suffix List: data alone, as its packages lay it there

local LIST, LIST_MAX = "/usr/share/publicsuffix/public_suffix_list.dat", 4 << 20
local listed

-- { [rule] = true, with "*." and "!" as they stand there; below = { name = a rule below it } }; false: there is none.
local function list()
  if listed ~= nil then return listed end
  local file = io and io.open(LIST, "rb")
  local text = file and file:read(LIST_MAX)
  if file then file:close() end
  listed = text and { below = {} } or false
  for rule in (text or ""):gmatch("[^\r\n]+") do
    rule = not rule:find("^//") and rule:match("^%S+")
    if rule and not rule:find("[\128-\255]") then     -- the others' xn-- forms are not in it
      rule = rule:lower()
      listed[rule] = true
      local name = rule:match("^[!*]?%.?(.+)$")
      if rule:find("^%*") then listed.below[name] = rule end
      for above in name:gmatch("%.()") do listed.below[name:sub(above)] = rule end
    end
  end
  return listed
end

--- Has this machine the list? Else less is known of a name than could be.
function M.has_list() return list() ~= false end

-- Their owner's own APIs: there for browsers' sake, whose cookies strangers' files below one of its names must not get.
local apis = { ["googleapis.com"] = true }

-- Why, and the rule: the name is a suffix itself, or one stands below it.
local function on_list(name)
  local rules, rest = list(), name:match("%.(.+)$")
  if not rules or not rest or rules["!" .. name] or apis[name] then return nil end
  if rules[name] or rules["*." .. rest] then return REGISTER, name end
  if rules.below[name] then return REGISTER, rules.below[name] end
end

--- Why strangers answer below this name, and which name it is: why, name | nil. A wildcard over more is over them too.
function M.shared(name)
  if reasons[name] then return reasons[name], name end
  local above = name:match("%.(.+)$")
  while above do
    if deep[above] then return reasons[above], above end
    above = above:match("%.(.+)$")
  end
  local label, country = name:match("^([^.]+)%.(%l%l)$")
  if label and second[label] and country then return REGISTER, name end
  local tail = "." .. name
  for known, why in pairs(reasons) do
    if known:sub(-#tail) == tail then return why, known end
  end
  return on_list(name)
end

--- Is a name of one's own below it shared, too?
function M.is_deep(name) return deep[name] == true end

--- What of a credential sends a secret as it is: the type's name, or what was added to a type that signs; nil: nothing.
function M.sends(pol, record)
  return pol.sends_secret and pol.name or record.rows and #record.rows > 0 and "--substitute"
    or record.secret_headers and "headers." .. record.secret_headers[1] or nil
end

--- The first wildcard among hosts that strangers share: host, why, the name that they share | nil.
function M.first(hosts)
  for _, host in ipairs(hosts or {}) do
    local name = host:match("^%*%.(.+)$")
    if name then
      local why, known = M.shared(name)
      if why then return host, why, known end
    end
  end
end

return M
