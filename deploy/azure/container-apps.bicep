// The standalone image in Azure Container Apps: one app for HTTP, one for messages and blobs, which
// ends when there are none.
//
//   az deployment group create --resource-group scoring \
//     --template-file deploy/azure/container-apps.bicep --parameters name=diabetes image=diabetes:1
@description('Of the app, and the beginning of the other names.')
param name string
param location string = resourceGroup().location
@description('In the registry of the output.')
param image string
@description('A cache for inputs and results.')
param withRedis bool = false
@description('Keys that clients send, as NAME:KEY,NAME:KEY; 16 characters or more each.')
@secure()
param keys string

module shared 'shared.bicep' = {
  name: 'shared'
  params: {
    name: name
    location: location
    withRedis: withRedis
  }
}

resource workspace 'Microsoft.OperationalInsights/workspaces@2023-09-01' existing = {
  name: '${name}-logs'
}

resource environment 'Microsoft.App/managedEnvironments@2024-03-01' = {
  name: '${name}-environment'
  location: location
  dependsOn: [shared]
  properties: {
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: workspace.properties.customerId
        sharedKey: workspace.listKeys().primarySharedKey
      }
    }
  }
}

var common = union(
  [
    { name: 'AZURE_CLIENT_ID', value: shared.outputs.clientId }
    { name: 'SCORING_LOG_FORMAT', value: 'json' }
    { name: 'APPLICATIONINSIGHTS_CONNECTION_STRING', value: shared.outputs.insightsConnection }
  ],
  withRedis ? [
    { name: 'REDIS_HOST', value: shared.outputs.redisHost }
    { name: 'REDIS_PORT', value: '10000' }
    { name: 'REDIS_SSL', value: 'true' }
  ] : []
)
var probes = [
  {
    type: 'Startup'
    httpGet: { path: '/health/ready', port: 5001 }
    periodSeconds: 5
    failureThreshold: 120
  }
  {
    type: 'Readiness'
    httpGet: { path: '/health/ready', port: 5001 }
    periodSeconds: 5
  }
  {
    type: 'Liveness'
    httpGet: { path: '/health/live', port: 5001 }
    periodSeconds: 10
  }
]

resource http 'Microsoft.App/containerApps@2024-03-01' = {
  name: name
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${shared.outputs.identityId}': {}
    }
  }
  properties: {
    managedEnvironmentId: environment.id
    configuration: {
      ingress: {
        external: true
        targetPort: 5001
        allowInsecure: false
      }
      registries: [
        { server: shared.outputs.registryServer, identity: shared.outputs.identityId }
      ]
      secrets: [
        { name: 'keys', value: keys }
      ]
    }
    template: {
      terminationGracePeriodSeconds: 60
      containers: [
        {
          name: 'scoring'
          image: '${shared.outputs.registryServer}/${image}'
          resources: { cpu: json('1.0'), memory: '2Gi' }
          env: concat(common, [
            { name: 'SCORING_TRIGGERS', value: 'http' }
            { name: 'SCORING_KEYS', secretRef: 'keys' }
          ])
          probes: probes
        }
      ]
      scale: {
        minReplicas: 1
        maxReplicas: 10
        rules: [
          {
            name: 'requests'
            http: { metadata: { concurrentRequests: '32' } }
          }
        ]
      }
    }
  }
}

resource messages 'Microsoft.App/containerApps@2024-03-01' = {
  name: '${name}-messages'
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${shared.outputs.identityId}': {}
    }
  }
  properties: {
    managedEnvironmentId: environment.id
    configuration: {
      registries: [
        { server: shared.outputs.registryServer, identity: shared.outputs.identityId }
      ]
    }
    template: {
      terminationGracePeriodSeconds: 60
      containers: [
        {
          name: 'scoring'
          image: '${shared.outputs.registryServer}/${image}'
          resources: { cpu: json('1.0'), memory: '2Gi' }
          env: concat(common, [
            { name: 'SCORING_TRIGGERS', value: 'service_bus' }
            {
              name: 'ServiceBusConnectionString__fullyQualifiedNamespace'
              value: '${shared.outputs.busName}.servicebus.windows.net'
            }
            { name: 'ServiceBusConnectionString__clientId', value: shared.outputs.clientId }
          ])
          probes: probes
        }
      ]
      scale: {
        minReplicas: 0
        maxReplicas: 20
        cooldownPeriod: 300
        pollingInterval: 10
        rules: [
          {
            name: 'messages'
            custom: {
              type: 'azure-servicebus'
              identity: shared.outputs.identityId
              metadata: {
                namespace: shared.outputs.busName
                queueName: 'input'
                messageCount: '100'
              }
            }
          }
        ]
      }
    }
  }
}

output url string = 'https://${http.properties.configuration.ingress.fqdn}'
output registry string = shared.outputs.registryServer
